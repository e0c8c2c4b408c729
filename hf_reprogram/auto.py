"""AutoReprogramModel: base, processor and program from one name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
import transformers
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, PreTrainedModel

from . import artefact
from .backbone.kinds import AUDIO_KINDS, KINDS, modality_of
from .config import ReprogramConfig
from .errors import ArtefactError, BaseModelError, UsageError, did_you_mean
from .hub import explain, fetch, is_lost
from .model import ReprogramModel
from .wrap import config_of


# What a config may name; nothing else that it says is ever looked up in transformers.
AUTO_CLASSES = tuple(kind.auto_class for kind in (*KINDS.values(), *AUDIO_KINDS.values()))
DTYPES = ("float32", "bfloat16", "float16", "float64")
_HUB = ("token", "cache_dir", "local_files_only")


class AutoReprogramModel:
    """Loads saved programs. Not instantiated; call `from_pretrained`."""

    @classmethod
    def from_pretrained(
        cls,
        repo_or_folder: str | os.PathLike,
        base_model: PreTrainedModel | str | os.PathLike | None = None,
        processing_class: Any = None,
        adapter_name: str = "default",
        is_trainable: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        **base_kwargs: Any,
    ) -> ReprogramModel:
        """A frozen base with a saved program on it, ready to predict.

        Args:
            repo_or_folder: a folder made by `save_pretrained`, or a repo id on the Hub.
            base_model: the base, if it is loaded already, or the folder or repo id to load it from; None is the
                name that it had in training.
            processing_class: its tokenizer, if it is loaded already.
            adapter_name: the name that the program gets.
            is_trainable: whether training goes on.
            revision: of the repo.
            subfolder: of the repo or folder.
            base_kwargs: for the base's own `from_pretrained` (`dtype`, `device_map`, ...); `token`, `cache_dir` and
                `local_files_only` for the program too.

        Raises:
            ArtefactError: damaged or incomplete, or the base or processor is another than it was made for.
            UsageError: `base_kwargs` beside a base that is loaded already.
        """
        hub = {k: base_kwargs[k] for k in _HUB if k in base_kwargs} | ({"revision": revision} if revision else {})
        unused = [k for k in base_kwargs if k not in _HUB]
        loaded = base_model is not None and not isinstance(base_model, str | os.PathLike)
        if loaded and unused:
            known = ("base_model", "processing_class", "adapter_name", "is_trainable", "revision", "subfolder", *_HUB)
            raise UsageError(
                unused[0], "is for loading the base, and base_model is loaded", None, did_you_mean(unused[0], known)
            )
        folder = fetch(repo_or_folder, subfolder, **hub)
        config = config_of(artefact.load(folder)[0], folder)
        name = config.base_model_name_or_path
        if not loaded:
            name = name if base_model is None else os.fspath(base_model)
            base_model = _load_base(config, name, repo_or_folder, base_kwargs)
        elif not isinstance(base_model, PreTrainedModel):
            raise BaseModelError("base_model", f"{base_model!r}"[:120], "a loaded transformers model, or its name")
        if processing_class is None and (config.fingerprint or {}).get("processor"):
            name = name or base_model.config._name_or_path
            given = {k: hub[k] for k in _HUB if k in hub}
            hears, both = modality_of(base_model) == "audio", "+" in str(config.fingerprint["processor"])
            processing_class = _load_processor(name, repo_or_folder, hears, both, given)
        return ReprogramModel.from_pretrained(base_model, folder, adapter_name, is_trainable, processing_class)


def _load_base(config: ReprogramConfig, name: str | None, where: Any, kwargs: dict[str, Any]) -> PreTrainedModel:
    auto_class = config.base_auto_class
    if auto_class not in AUTO_CLASSES:
        raise ArtefactError(str(where), f"base_auto_class {auto_class!r}", fix=did_you_mean(auto_class, AUTO_CLASSES))
    if not name:
        raise ArtefactError(
            str(where), "its base had no name when it was saved", fix="pass base_model=... and processing_class=..."
        )
    dtype = (config.fingerprint or {}).get("dtype")
    if dtype in DTYPES:  # that of training: bytes of a cast base are other bytes, and its scores other scores
        kwargs = {"dtype": getattr(torch, dtype), **kwargs}
    import_module("hf_reprogram.sources")  # models that transformers lacks: its auto classes know them from then on
    expected = f"the base where it was, an {auto_class}"
    with _explained(where, f"its base {name!r}", expected, "base_model", kwargs.get("token")):
        base = getattr(transformers, auto_class).from_pretrained(name, **kwargs)
        layers = str((config.fingerprint or {}).get("layers"))
        if layers.isdecimal() and 0 < int(layers) < (getattr(base.config, "num_hidden_layers", None) or 0):
            # It was trained on the first layers alone. Any other difference is for the fingerprint to refuse.
            cut = {"num_hidden_layers": int(layers), **kwargs}
            base = getattr(transformers, auto_class).from_pretrained(name, **cut)
        return base


@contextmanager
def _explained(where: Any, what: str, expected: str, argument: str, token: Any) -> Iterator[None]:
    """What transformers cannot load is our error; where the Hub is the reason, the reason is several causes deep."""
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError | ValueError) or is_lost(error)):
            raise
        why, cure = explain(error, token)
        fix = f"pass {argument}=..." + (f" or {cure}" if cure else "")
        raise ArtefactError(str(where), f"{what} could not be loaded ({why})", expected, fix) from None


def _load_processor(name: str | None, where: Any, hears: bool, both: bool, hub: dict[str, Any]) -> Any:
    noun = "feature extractor" if hears else "tokenizer"
    if not name:
        why = f"its {noun} could not be loaded: its base had no name"
        raise ArtefactError(str(where), why, fix="pass processing_class=...")
    loader = AutoProcessor if both else AutoFeatureExtractor if hears else AutoTokenizer
    what, expected = f"the {noun} of {name!r}", f"a {noun} beside its base"
    with _explained(where, what, expected, "processing_class", hub.get("token")):
        return loader.from_pretrained(name, **hub)
