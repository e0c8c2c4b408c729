"""ReprogramModel: a PeftModel whose adapters are programs with mappings; and how one is made."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from . import artefact, fingerprint, serve
from .card import model_card
from .config import ReprogramConfig
from .data.rows import label_names
from .errors import ConfigError, UsageError, did_you_mean
from .explain import explain
from .filling import sample
from .hub import fetch, push
from .processors import check_processor
from .registry import Later
from .reprogrammed import Reprogrammed
from .template import columns, parse
from .tuner import build_parts, check_adapter_name
from .wrap import as_artefact, check_config, collator_of, config_of, parts_for, resolve, start, watch_rates, wrap


logger = logging.getLogger(__name__)


class ReprogramModel(PeftModel):
    """A frozen base with named programs. Made by `get_reprogram_model` and `AutoReprogramModel`.

    PEFT's verbs keep PEFT's names: `add_adapter`, `load_adapter`, `set_adapter`, `delete_adapter`,
    `disable_adapter()`, `unload`, `save_pretrained`, `push_to_hub`, `print_trainable_parameters`, `get_model_status`.
    """

    # Set by get_reprogram_model and AutoReprogramModel; a class default so that PEFT's own constructors work too.
    processing_class: Any = None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        model: PreTrainedModel,
        model_id: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        processing_class: Any = None,
        subfolder: str | None = None,
        **hub: Any,
    ) -> ReprogramModel:
        """A base that is loaded already, with a saved program on it, ready to predict (PEFT's signature).

        Args:
            model: the base that the program was made for.
            model_id: a folder made by `save_pretrained`, or a repo id.
            adapter_name: the name that the program gets.
            is_trainable: whether training goes on.
            processing_class: the base's tokenizer, for raw rows.
            subfolder: of the repo or folder.
            hub: `revision`, `token`, `cache_dir`, `local_files_only`.

        Raises:
            ArtefactError: damaged or incomplete, or made for another base or processor.
        """
        check_adapter_name(adapter_name)
        check_processor(processing_class)
        folder = fetch(model_id, subfolder, **hub)
        sealed, tensors = artefact.load(folder)
        config = config_of(sealed, folder)
        wrapped = wrap(model, processing_class)
        try:
            fingerprint.check_fingerprint(config.fingerprint, model, processing_class, str(folder))
            parts_for(config, wrapped.backbone, tensors, str(folder))
            with as_artefact(folder):
                made = cls(wrapped, config, adapter_name)
            artefact.fill(made.base_model.state(adapter_name), tensors, str(folder))
        except Exception:
            wrapped.backbone.restore()
            raise
        made.processing_class = processing_class
        made.base_model.set_requires_grad(adapter_name, is_trainable)
        made._tell_labels()
        watch_rates(made)
        return made.eval()

    # Parts

    @property
    def reprogrammed(self) -> Reprogrammed:
        """The module that PEFT wraps."""
        return self.base_model.model

    @property
    def backbone(self) -> Any:
        """Our view of the base."""
        return self.base_model.model.backbone

    @property
    def learning_rate(self) -> float:
        """The first trained part's own default: rates are in units of the base's embedding size, not raw."""
        rates = self.learning_rates()
        return next(iter(rates.values())) if rates else 0.0

    def learning_rates(self) -> dict[str, float]:
        """Default learning rate of every part of the active program that trains: `{"program.0": 0.07}`."""
        program, mapping = self.base_model.sites()
        rates = program.part_rates(self.active_name())
        trained = any(True for _ in self.active_mapping().parameters())
        return rates | ({"mapping": self.active_mapping().learning_rate} if trained else {})

    def active_name(self) -> str:
        """Name of the active program."""
        return self.active_adapters[0]

    def active_programs(self) -> list[nn.Module]:
        """The active adapter's programs, in order."""
        return list(self.base_model.sites()[0].entries[self.active_name()])

    def active_mapping(self) -> nn.Module:
        """The active adapter's mapping."""
        return self.base_model.sites()[1].entries[self.active_name()]

    def label_names(self, adapter_name: str | None = None) -> list[str]:
        """Target labels of a program, order = id."""
        labels = self._config_of(adapter_name).labels
        if labels is None:
            raise UsageError(
                "labels", "this program has no labels", fix="generate() goes on writing; labels need a mapping"
            )
        return labels

    def problem_type(self, adapter_name: str | None = None) -> str:
        """What a program's labels are: a key of `losses.LOSSES`."""
        return self._config_of(adapter_name).problem_type

    def columns(self) -> list[str]:
        """Columns that the active program's template takes from a row; of a model that hears, `audio`."""
        if self.backbone.modality == "audio":
            return ["audio"]
        return columns(parse(self._config_of().layout() or "{text}"))

    def text_column(self) -> str:
        """The column that a bare text stands for."""
        return self.columns()[0]

    def _config_of(self, adapter_name: str | None = None) -> ReprogramConfig:
        name = adapter_name or self.active_name()
        if name not in self.peft_config:
            raise UsageError("adapter_name", f"unknown program {name!r}", fix=did_you_mean(name, self.peft_config))
        return self.peft_config[name]

    # PEFT's verbs, where ours differ

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """`Reprogrammed.forward`: PEFT's own would keep `adapter_names` from it."""
        return self.reprogrammed(*args, **kwargs)

    def add_adapter(self, adapter_name: str, peft_config: ReprogramConfig, seed: int = 0, **_: Any) -> None:
        """Add a fresh program; it is not made active. The caller's config stays as it was."""
        check_adapter_name(adapter_name)
        if adapter_name in self.peft_config:
            raise ConfigError("adapter_name", f"{adapter_name!r} exists", "a new name", "delete_adapter first")
        config = resolve(peft_config, self.backbone, self.processing_class)
        self.base_model.fill(adapter_name, config, build_parts(config, self.backbone))
        try:
            start(self, adapter_name, seed)
        except Exception:
            self._forget(adapter_name)
            raise

    def _forget(self, adapter_name: str) -> None:
        for site in self.base_model.sites():
            del site.entries[adapter_name]
        del self.peft_config[adapter_name]

    def load_adapter(
        self,
        model_id: str | os.PathLike,
        adapter_name: str,
        is_trainable: bool = False,
        subfolder: str | None = None,
        **hub: Any,
    ) -> None:
        """Load a saved program beside the others (or over one of the same name); it is not made active. It is frozen,
        unless `is_trainable`, or over the active program while that trains.

        Straight into the two sites, strict: every tensor there, none too many, finite, of the right shape, made for
        this base and this processor. On any error the model is as it was.

        Raises:
            ArtefactError: damaged, incomplete, or made for another base or processor.
        """
        check_adapter_name(adapter_name)
        folder = fetch(model_id, subfolder, **hub)
        sealed, tensors = artefact.load(folder)
        config = config_of(sealed, folder)
        fingerprint.check_fingerprint(config.fingerprint, self.backbone.base, self.processing_class, str(folder))
        self._install(adapter_name, config, tensors, str(folder))
        active = adapter_name == self.active_name()
        trains = is_trainable or (active and self._trains())
        for site in self.base_model.sites():  # PEFT's own verb walks through the whole base (N36)
            site.entries[adapter_name].requires_grad_(trains)
        if active:
            self._tell_labels()

    def _install(self, name: str, config: ReprogramConfig, tensors: dict[str, Tensor], where: str) -> None:
        """Put a loaded program into the sites. Nothing of the model is touched before everything is checked."""
        parts = parts_for(config, self.backbone, tensors, where)
        old = self.peft_config.get(name)
        if old is not None and (old.program, old.mapping) == (config.program, config.mapping):
            # Trainer loads its best checkpoint over the program it trains: the optimiser must keep its parameters.
            with torch.no_grad():
                artefact.fill(self.base_model.state(name), tensors, where)
            self.peft_config[name] = config
        else:
            self.base_model.fill(name, config, parts)

    def _trains(self) -> bool:
        return any(p.requires_grad for site in self.base_model.sites() for p in site.parameters())

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Make one program active: only it trains, and rows that name none use it."""
        if not isinstance(adapter_name, str):
            raise UsageError(
                "adapter_name",
                f"{adapter_name!r}",
                "one name: two prompts have no meaning as a sum; rows may name theirs in an 'adapter' column",
            )
        self._config_of(adapter_name)
        for site in self.base_model.sites():
            site.set_adapter(adapter_name, inference_mode=inference_mode)
        self.active_adapter = adapter_name
        self.base_model.active_adapter = adapter_name
        self._tell_labels()

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete a program. The last one stays: `unload()` gives the base back."""
        self._config_of(adapter_name)
        if len(self.peft_config) == 1:
            raise UsageError(
                "adapter_name",
                f"{adapter_name!r} is the last program",
                "one that is not the last",
                "unload() gives the base back",
            )
        if adapter_name == self.active_name():
            self.set_adapter(next(name for name in self.peft_config if name != adapter_name))
        self._forget(adapter_name)

    def unload(self) -> PreTrainedModel:
        """The base, with every flag as it was found."""
        self.backbone.restore()
        return self.backbone.base

    def merge_and_unload(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: a program is no change of weights."""
        raise UsageError(
            "merge_and_unload",
            "a program changes inputs, not weights, and cannot be merged",
            fix="unload() gives the base back; save_pretrained() keeps the program",
        )

    merge_adapter = unmerge_adapter = merge_and_unload

    def train(self, mode: bool = True) -> ReprogramModel:
        """Wake program and mapping; the base stays asleep."""
        self.training = mode
        self.base_model.training = mode
        self.reprogrammed.train(mode)
        return self

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        selected_adapters: Sequence[str] | None = None,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save programs: `default` (or the only one) into the folder, others into sub-folders of their names.

        Args:
            save_directory: the folder.
            selected_adapters: names; None saves all.
            is_main_process: write nothing where False.
            state_dict: gathered state of a sharded model, as Trainer passes it.

        Raises:
            ArtefactError: NaN in a tensor, a full or read-only disk; what was there before is intact.
        """
        if not isinstance(save_directory, str | os.PathLike) or not os.fspath(save_directory):
            raise UsageError("save_pretrained(save_directory)", f"{save_directory!r}", "a folder")
        if is_main_process:
            shown = os.path.basename(os.path.abspath(save_directory))
            self._save(save_directory, shown, selected_adapters, state_dict)

    def _save(self, root: Any, shown: str, selected: Sequence[str] | None = None, state: Any = None) -> None:
        """The folders of some programs, whose cards call their place `shown`."""
        names = list(self.peft_config) if selected is None else list(selected)
        for name in names:
            config, tensors = self._config_of(name), self.base_model.state(name, state)
            subfolder = "" if name == "default" or len(names) == 1 else name
            values = {**config.to_dict(), "inference_mode": True, "checksum": None}
            if state is None:  # else the base is sharded, and no rank sees all of it
                values["fingerprint"] = fingerprint.renewed(config.fingerprint or {}, self.backbone.base)
            card = model_card(config, tensors, shown, subfolder)
            artefact.save(os.path.join(root, subfolder), values, tensors, card)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: Any = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload the programs in one commit to a repo of the Hub, made where it is missing; other files stay.

        Args:
            repo_id: `owner/name`, or a name among your own.
            commit_message, private: of the commit; visibility of a repo that is made.
            token: a Hub token; None takes that of `hf auth login` or `HF_TOKEN`.
            revision, create_pr: a branch, made where it is missing; or as a pull request.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            UsageError, ArtefactError: it is not allowed; the Hub fails or does not answer in time.
        """
        # Not transformers' mixin: that writes an empty card of its own over ours.
        return push(repo_id, self._save, commit_message, private, token, revision, create_pr)

    def create_or_update_model_card(self, output_dir: str) -> None:
        """Nothing: `save_pretrained` writes the card with the artefact, atomically."""

    # Ours

    def collator(self, features: Any = None, disabled: bool = False) -> Any:
        """Rows to batches for Trainer or a DataLoader: a snapshot of the present programs, plain data only.

        Args:
            features: what integer labels stand for: `dataset.features`, or label names in the order of their ids.
            disabled: lay out no slots, for use inside `disable_adapter()`.
        """
        if self.processing_class is None:
            raise UsageError(
                "processing_class",
                "None: rows cannot be laid out",
                "the base's tokenizer",
                "get_reprogram_model(base, config, processing_class=tokenizer)",
            )
        return collator_of(self, label_names(features), disabled)

    # Functions of a model and rows, which read well as methods.
    predict, evaluate, score, generate = serve.predict, serve.evaluate, serve.score, serve.generate
    fit_mapping, frozen_rows, explain, sample = serve.fit_mapping, serve.frozen_rows, explain, sample

    # Those of rooms below this one.
    fold, add_weighted_adapter = Later("tools.arithmetic"), Later("tools.arithmetic")
    distill = Later("tools.distill")

    def _tell_labels(self) -> None:
        """Labels of the active program into the config that pipelines and Trainer see (not the base's own)."""
        labels = self._config_of().labels
        if labels is not None:
            self.reprogrammed.config.num_labels = len(labels)
            self.reprogrammed.config.id2label = dict(enumerate(labels))
            self.reprogrammed.config.label2id = {label: i for i, label in enumerate(labels)}


def get_reprogram_model(
    model: PreTrainedModel,
    config: ReprogramConfig,
    processing_class: Any = None,
    adapter_name: str = "default",
    seed: int = 0,
) -> ReprogramModel:
    """Freeze a base, check that we run it exactly, and put a fresh program and mapping on it.

    Args:
        model: a transformers model of language or speech. Its weights are never changed; `unload()` gives it back.
        config: what to learn; it is copied.
        processing_class: the base's tokenizer, needed for label words, text starts and raw rows; of a model that hears
            its feature extractor, or the processor of both.
        adapter_name: name of the program.
        seed: of the program's random start.

    Raises:
        BaseModelError: a base that cannot be run exactly (with the numbers seen).
        ConfigError, TemplateError: parts that do not fit the base or the tokenizer.
    """
    check_adapter_name(adapter_name)
    check_config(config)
    wrapped = wrap(model, processing_class)
    try:
        resolved = resolve(config, wrapped.backbone, processing_class)
        made = ReprogramModel(wrapped, resolved, adapter_name)
        made.processing_class = processing_class
        start(made, adapter_name, seed)
    except Exception:
        wrapped.backbone.restore()
        raise
    made._tell_labels()
    watch_rates(made)
    return made.eval()
