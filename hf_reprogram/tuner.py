"""The joint with PEFT: registration, the two sites where programs and mappings sit, and the tuner that fills them.

This is the only file that touches PEFT's inside (E§1, N1). PEFT wraps `Reprogrammed`, which has two placeholder
modules; the tuner replaces these by layers that keep one entry per adapter. The base's own module tree stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import peft.mapping
import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from .batch import Batch, Reading, Readout
from .config import PEFT_TYPE, ReprogramConfig
from .errors import BaseModelError, ConfigError, UsageError, did_you_mean
from .programs.base import Program, SlotProgram, banked
from .registry import method_class


PREFIX = "reprogram_"
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_adapter_name(name: Any) -> str:
    """An adapter's name as module trees and folders can carry it (N8).

    Raises:
        ConfigError: other characters than letters, digits, `_` and `-`, or a reserved name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "__base__":
        raise ConfigError("adapter_name", f"{name!r}", "letters, digits, _ and -")
    if hasattr(nn.ModuleDict(), name):
        raise ConfigError("adapter_name", f"{name!r} is a method of torch's ModuleDict", "another name", f"{name}_1")
    return name


class _Site(nn.Module, BaseTunerLayer):
    """A layer with one entry per adapter. Entries are float32 on the base's device, whatever `.to()` says (N5)."""

    def __init__(self, placeholder: nn.Module, entries: str) -> None:
        super().__init__()
        self.base_layer = placeholder
        self.adapter_layer_names = (entries,)
        self._disable_adapters = False
        self._active_adapter: str | list[str] = []
        self.merged_adapters: list[str] = []
        setattr(self, entries, nn.ModuleDict())

    @property
    def entries(self) -> nn.ModuleDict:
        """Adapter name -> entry."""
        return getattr(self, self.adapter_layer_names[0])

    @property
    def active(self) -> str:
        """The one active adapter."""
        return self.active_adapters[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Site:
        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype else moved

        return super()._apply(keep_dtype, recurse)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """Nothing: entries are made on the backbone's device, and PEFT would look for a weight of the placeholder."""

    def groups(self, batch: Batch) -> list[tuple[str, list[int] | None]]:
        """(adapter, its rows) in order of first appearance; rows is None where one adapter owns the batch."""
        if batch.adapters is None:
            return [(self.active, None)]
        if len(batch.adapters) != len(batch):
            raise UsageError("adapter_names", f"{len(batch.adapters)} names for {len(batch)} rows", "one name per row")
        rows: dict[str, list[int]] = {}
        for i, name in enumerate(batch.adapters):
            if not isinstance(name, str) or name not in self.entries:
                raise UsageError("adapter_names", f"unknown adapter {name!r}", fix=did_you_mean(name, self.entries))
            rows.setdefault(name, []).append(i)
        return [(name, None if len(rows) == 1 else r) for name, r in rows.items()]


class ProgramLayer(_Site):
    """The site of the programs: batch in, source-domain batch out."""

    def __init__(self, placeholder: nn.Module) -> None:
        super().__init__(placeholder, PREFIX + "program")

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        """Each row through its own program; slot programs share one bank and one lookup (N23)."""
        groups = self.groups(batch)
        chains = [self.entries[name] for name, _ in groups]
        if all(len(chain) == 1 and isinstance(chain[0], SlotProgram) for chain in chains):
            batch = replace(batch, changed=batch.slot_index >= 0 if batch.slot_index is not None else None)
        if len(groups) == 1:
            return self._chain(chains[0], batch, backbone)
        if batch.changed is not None:
            position = {name: i for i, (name, _) in enumerate(groups)}
            owner = torch.tensor([position[name] for name in batch.adapters], device=batch.input_ids.device)
            return banked([chain[0].vectors() for chain in chains], owner, batch, backbone)
        parts = [
            self._chain(chain, batch.select(rows), backbone) for chain, (_, rows) in zip(chains, groups, strict=True)
        ]
        return _merge(batch, parts, [rows for _, rows in groups])

    @staticmethod
    def _chain(chain: nn.ModuleList, batch: Batch, backbone: Any) -> Batch:
        for program in chain:
            batch = program(backbone.bring(batch, program.accepts), backbone)
        return backbone.bring(batch, backbone.stages[-1])

    def part_rates(self, name: str) -> dict[str, float]:
        """Default learning rate of each program of an adapter that has parameters."""
        chain: Iterator[Program] = iter(self.entries[name])
        return {f"program.{i}": p.learning_rate for i, p in enumerate(chain) if any(True for _ in p.parameters())}


def _merge(batch: Batch, parts: list[Batch], rows: list[list[int]]) -> Batch:
    """Parts of a batch, processed apart, in the order of the whole."""
    shapes = {p.embeds.shape[1:] for p in parts}
    if len(shapes) > 1:
        raise UsageError(
            "adapter_names",
            f"programs that give rows of different shapes {sorted(map(tuple, shapes))}",
            "programs of one canvas in one pass",
        )
    order = torch.tensor([i for r in rows for i in r], device=batch.input_ids.device).argsort()
    return replace(batch, embeds=torch.cat([p.embeds for p in parts])[order])


class MappingLayer(_Site):
    """The site of the mappings: what each row's mapping reads, and its logits."""

    def __init__(self, placeholder: nn.Module) -> None:
        super().__init__(placeholder, PREFIX + "mapping")

    def readings(self, batch: Batch) -> list[tuple[list[int] | None, Reading]]:
        """(rows, reading) of every adapter in the batch."""
        plan = [(rows, self.entries[name].reading()) for name, rows in self.groups(batch)]
        if len(plan) > 1 and any(reading.kind == "base" for _, reading in plan):
            raise UsageError("adapter_names", "an adapter without mapping beside others", "mappings in one pass")
        return plan

    def forward(self, batch: Batch, readouts: list[Readout]) -> Tensor:
        """(batch, classes); where adapters have different numbers of classes the missing ones are -inf."""
        groups = self.groups(batch)
        parts, owners = [], []
        for (name, rows), readout in zip(groups, readouts, strict=True):
            if self.entries[name].needs_fit:
                raise UsageError(
                    f"mapping of {name!r}",
                    "must be fitted before it maps anything",
                    fix="call model.fit_mapping(rows), or train with make_trainer",
                )
            parts.append(self.entries[name](readout))
            # Several laid out rows may make one row of the user's; they stand together, so the first tells its place.
            owners += (rows or [])[:: self.entries[name].rows_per_example]
        if len(parts) == 1:
            return parts[0]
        if any(self.entries[name].problem_type == "transcription" for name, _ in groups):
            what = "programs that write texts beside others in one forward pass"
            raise UsageError("adapter_names", what, "one program per pass", "predict(rows) takes rows of several")
        classes = max(p.shape[1] for p in parts)
        padded = [nn.functional.pad(p, (0, classes - p.shape[1]), value=-torch.inf) for p in parts]
        order = torch.tensor(owners, device=parts[0].device).argsort()
        return torch.cat(padded)[order]

    def write(self, batch: Batch, backbone: Any) -> list[tuple[list[int], float]]:
        """Ids and probability of what each row of one program says, its programs' work done."""
        ((name, _),) = self.groups(batch)
        return self.entries[name].write(batch, backbone)

    def loss(self, batch: Batch, logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        """The loss of the batch's problem type."""
        mappings = [self.entries[name] for name, _ in self.groups(batch)]
        if len({m.problem_type for m in mappings}) > 1:
            raise UsageError(
                "adapter_names", "adapters of different problem types in one training batch", "one problem type"
            )
        if len(mappings) > 1 and any(m.class_weight is not None for m in mappings):
            raise UsageError(
                "adapter_names", "adapters with class weights beside others in one training batch", "one adapter"
            )
        return mappings[0].loss(logits, labels, num_items)


class ReprogramTuner(BaseTuner):
    """PEFT's tuner around `Reprogrammed`."""

    prefix = PREFIX
    tuner_layer_cls = _Site
    target_module_mapping: dict[str, list[str]] = {}

    def _pre_injection_hook(self, model: nn.Module, config: ReprogramConfig, adapter_name: str) -> None:
        # `PeftModel.from_pretrained(base, program)` and `base.load_adapter(program)` come here with a bare base.
        if not {"program", "mapping"} <= dict(model.named_children()).keys():
            raise BaseModelError(
                "model",
                f"a program cannot sit in a bare {type(model).__name__}",
                fix="hr.get_reprogram_model makes one, hr.AutoReprogramModel.from_pretrained loads one",
            )

    def _prepare_adapter_config(self, peft_config: ReprogramConfig, model_config: dict) -> ReprogramConfig:
        return peft_config

    @staticmethod
    def _check_target_module_exists(peft_config: ReprogramConfig, key: str) -> bool:
        return key in ("program", "mapping")

    def _create_and_replace(
        self, peft_config: ReprogramConfig, adapter_name: str, target: nn.Module, target_name: str, parent: nn.Module,
        current_key: str, parameter_name: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(target, _Site):
            target = (ProgramLayer if target_name == "program" else MappingLayer)(target)
            setattr(parent, target_name, target)
        program, mapping = build_parts(peft_config, parent.backbone)
        place(target, adapter_name, program if target_name == "program" else mapping, parent.backbone)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # PEFT strips the name only as the last or second-last part; ours stands deeper (N1).
        return strip_name(key, adapter_name)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield  # rows' adapters travel in the batch, not in hooks

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        # PEFT's walk would switch a LoRA of the base too, and leave it trainable when it comes on again (E§0 14).
        for site in self.sites():
            site.enable_adapters(enabled)

    def fill(self, adapter_name: str, config: ReprogramConfig, parts: tuple[nn.ModuleList, nn.Module]) -> None:
        """Add an adapter by filling the two sites, without PEFT's walks through the whole tree (15 ms: N36)."""
        for site, part in zip(self.sites(), parts, strict=True):
            place(site, adapter_name, part, self.model.backbone)
        self.peft_config[adapter_name] = config

    def sites(self) -> tuple[ProgramLayer, MappingLayer]:
        """The two layers."""
        return self.model.program, self.model.mapping

    def state(self, adapter_name: str, whole: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Everything that is saved of an adapter: `program.0.slots`, `mapping.offset`, ...

        Args:
            adapter_name: the adapter.
            whole: gathered state of a sharded model, as Trainer passes it; values are taken from there.
        """
        found = parts_state(tuple(site.entries[adapter_name] for site in self.sites()))
        gathered = {key.partition(f".{PREFIX}")[2]: tensor for key, tensor in (whole or {}).items()}
        return {
            key: gathered.get(f"{site}.{adapter_name}.{rest}", tensor)
            for key, tensor in found.items()
            for site, _, rest in [key.partition(".")]
        }


def strip_name(key: str, adapter_name: str) -> str:
    """`....reprogram_program.NAME.0.slots` -> `....reprogram_program.0.slots`."""
    for site in ("program", "mapping"):
        key = key.replace(f".{PREFIX}{site}.{adapter_name}.", f".{PREFIX}{site}.")
    return key


def place(site: _Site, name: str, entry: nn.Module, backbone: Any) -> None:
    """Put an adapter's entry into a site; it trains only while it is the active one."""
    entry.to(backbone.device)
    first = not site.entries
    site.entries[name] = entry
    if first:
        site.set_adapter(name)
    elif name not in site.active_adapters:
        entry.requires_grad_(False)


def build_parts(config: ReprogramConfig, backbone: Any) -> tuple[nn.ModuleList, nn.Module]:
    """The programs of a config and its mapping, their parameters not started yet."""
    made = [method_class("program", p.type)(p, backbone, config.embedding_rms) for p in config.programs]
    options = config.mapping
    mapping = method_class("mapping", options.type)(options, backbone, config.labels, config.problem_type)
    mapping.weigh(config.class_weight)
    return nn.ModuleList(made), mapping


def parts_state(parts: tuple[nn.Module, ...]) -> dict[str, Tensor]:
    """Named tensors of programs and mapping, as they are saved."""
    named = zip(("program", "mapping"), parts, strict=True)
    return {f"{site}.{key}": tensor for site, part in named for key, tensor in part.state_dict().items()}


def foreign_adapters(modules: Mapping[str, nn.Module]) -> list[str]:
    """Adapters of other methods among a base's modules, in the state in which they act: off and merged ones too."""
    layers = ((name, m) for name, m in modules.items() if isinstance(m, BaseTunerLayer))
    return [f"{name}: {m.active_adapters} off={m.disable_adapters} merged={m.merged_adapters}" for name, m in layers]


def register() -> None:
    """Make PEFT know our type. Harmless when repeated; refuses a foreign owner of the name (E§0 1)."""
    for table, value in (
        (peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, ReprogramConfig),
        (peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING, ReprogramTuner),
        (peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING, PREFIX),
    ):
        if table.setdefault(PEFT_TYPE, value) is not value and table[PEFT_TYPE] != value:
            raise UsageError("peft.mapping", f"{PEFT_TYPE!r} belongs to {table[PEFT_TYPE]!r}", "our own entry")


register()
