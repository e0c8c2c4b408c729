"""What the artefact tests share: saved programs of every kind on a tiny base, forgeries of them, and a witness."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from hf_reprogram import artefact
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ReprogramError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, flags, logits_of, state_hash, tiny
from hf_reprogram.testing.helpers import fit, train_step


WORDS = {"negative": [" bad", " poor"], "positive": [" good"]}
PROMPT = {"type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}"}
VERBALIZER = {"type": "verbalizer", "words": WORDS}
LINEAR = {"type": "linear", "on": "state", "pool": "mean"}


def prompt(template: Any = PROMPT["template"], **options: Any) -> dict[str, Any]:
    """Config values of a prompt with a verbalizer."""
    return {"program": {**PROMPT, "template": template, **options}, "mapping": VERBALIZER}


def words(words: Any, **options: Any) -> dict[str, Any]:
    """Config values of a verbalizer."""
    return {"program": PROMPT, "mapping": {**VERBALIZER, "words": words, **options}}


def linear(**options: Any) -> dict[str, Any]:
    """Config values of a linear mapping."""
    return {"program": PROMPT, "mapping": {**LINEAR, **options}, "labels": LABELS}


# One saved program of each kind that stores something else.
KINDS: dict[str, dict[str, Any]] = {
    "prompt": {"program": PROMPT, "mapping": VERBALIZER},
    "trained-rows": {"program": PROMPT, "mapping": {**VERBALIZER, "rows": "trained"}},
    "contextual": {"program": PROMPT, "mapping": {**VERBALIZER, "calibration": "contextual"}},
    "batch": {"program": PROMPT, "mapping": {**VERBALIZER, "calibration": "batch"}},
    "ridge": {"program": PROMPT, "mapping": {**LINEAR, "solver": "ridge"}, "labels": LABELS},
    "logistic": {"program": PROMPT, "mapping": {**LINEAR, "solver": "logistic"}, "labels": LABELS},
    "gradient": {"program": PROMPT, "mapping": {**LINEAR, "solver": "gradient"}, "labels": LABELS},
    "words-only": {"program": {"type": "none", "template": "{text} is{answer}"}, "mapping": VERBALIZER},
    "nothing": {},
}


def trained(kind: str, family: str = "llama") -> ReprogramModel:
    """A model of this kind whose numbers are no longer those of its start."""
    base, tokenizer = tiny(family)
    model = get_reprogram_model(base, ReprogramConfig(**KINDS[kind]), processing_class=tokenizer)
    fit(model)
    train_step(model)
    return model


@cache
def saved_files(kind: str) -> dict[str, bytes]:
    """The files of a saved program of this kind, made once."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trained(kind).save_pretrained(Path(folder, "program"))
        return {path.name: path.read_bytes() for path in Path(folder, "program").iterdir()}


def saved(kind: str, folder: Path) -> Path:
    """A fresh folder with a saved program of this kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in saved_files(kind).items():
        (folder / name).write_bytes(content)
    return folder


def host(kind: str = "prompt") -> ReprogramModel:
    """A model onto which programs are loaded: the same tiny base, another program."""
    base, tokenizer = tiny("llama")
    return get_reprogram_model(base, ReprogramConfig(**KINDS[kind]), processing_class=tokenizer, seed=9)


def forge(
    folder: Path,
    config: Callable[[dict[str, Any]], Any] | None = None,
    tensors: Callable[[dict[str, Tensor]], Any] | None = None,
) -> None:
    """Change a saved program in place and give it valid checksums: only what it SAYS can be wrong with it.

    Args:
        folder: of the artefact.
        config, tensors: change what they are given, in place.
    """
    sealed, values = artefact.load(folder)
    if config is not None:
        config(sealed)
    if tensors is not None:
        tensors(values)
    write(folder, artefact.seal(sealed, values), values)


def write(folder: Path, sealed: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """The two files as `artefact.save` would write them, without its checks."""
    data = save_tensors(dict(tensors), metadata={"hf_reprogram": json.dumps(sealed, sort_keys=True)})
    overwrite(folder / artefact.WEIGHTS_FILE, data)
    overwrite(folder / artefact.CONFIG_FILE, json.dumps(sealed).encode())


def overwrite(path: Path, data: bytes) -> None:
    """New content for a file that is there. To empty it first costs a flush of the disk, 20 times as long."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


def same(found: tuple[dict, dict[str, Tensor]], expected: tuple[dict, dict[str, Tensor]]) -> bool:
    """Whether two loaded artefacts are the same program, bit by bit."""
    return (
        found[0] == expected[0]
        and found[1].keys() == expected[1].keys()
        and all(torch.equal(tensor, expected[1][name]) for name, tensor in found[1].items())
    )


def snapshot(model: ReprogramModel) -> tuple[Any, ...]:
    """All that a failed call may not change: the base, its flags, the programs, what they predict."""
    base = model.backbone.base
    return (
        state_hash(base),
        flags(base),
        {name: state_hash(module) for site in model.base_model.sites() for name, module in site.entries.items()},
        [(name, p.requires_grad) for name, p in model.named_parameters()],
        list(model.peft_config),
        model.active_adapters,
        dict(model.config.id2label),
        logits_of(model, ROWS).numpy().tobytes(),
    )


@contextmanager
def nothing_changes(model: ReprogramModel) -> Iterator[None]:
    """Base, programs and predictions are afterwards what they were."""
    before = snapshot(model)
    yield
    for was, now in zip(before, snapshot(model), strict=True):
        assert now == was


def check(error: ReprogramError, says: str) -> None:
    """An error has its parts, and the words that a user needs, which `...` parts, in this order."""
    assert error.where and error.what and (error.expected or error.fix)
    at = 0
    for text in says.split(" ... "):
        found = str(error).find(text, at)
        assert found >= 0, f"{text!r} is not in its place in: {error}"
        at = found + len(text)
