"""Reprogrammed: the module that PEFT wraps. Columns -> program -> frozen backbone -> mapping -> logits, loss."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from .backbone import backbone_of
from .batch import Batch, Readout
from .errors import UsageError


# What PEFT, Trainer and generation ask a model for. Nothing else is forwarded: `backbone` is an attribute of 46 model
# families, and `hf_device_map` would make accelerate re-dispatch the base under our names (N9).
_FORWARDED = frozenset(
    {
        "_no_split_modules",
        "can_generate",
        "device",
        "dtype",
        "generation_config",
        "get_input_embeddings",
        "get_output_embeddings",
        "hf_quantizer",
        "is_activation_checkpointing",
        "is_loaded_in_4bit",
        "is_loaded_in_8bit",
        "is_parallelizable",
        "is_quantized",
        "main_input_name",
        "model_parallel",
        "quantization_method",
    }
)


class Reprogrammed(nn.Module):
    """A frozen base between two sites. The sites start as empty placeholders; the tuner fills them.

    Args:
        base: the model to reprogram. It is frozen and put to sleep; `backbone.restore()` undoes that.
        processor: of a model that hears, its feature extractor, or the processor that holds one.

    Raises:
        BaseModelError: a base that our backbone cannot run exactly.
    """

    # Trainer reads these on the module that PEFT wraps: our loss divides by num_items_in_batch itself, and it is no
    # causal LM loss, whose labels Trainer would count shifted by one (E§0 19, 20).
    accepts_loss_kwargs = True
    loss_type = "ReprogramLoss"
    base_model_prefix = "base"  # transformers asks for it where a family's checkpoints were once named otherwise (AST)

    def __init__(self, base: nn.Module, processor: Any = None) -> None:
        super().__init__()
        self.backbone = backbone_of(base, processor)
        self.base = base
        self.program: nn.Module = nn.Identity()
        self.mapping: nn.Module = nn.Identity()
        self.name_or_path = base.config._name_or_path
        # Its own copy: labels of the target are written here, the base's config stays as it was.
        self.config = copy.deepcopy(base.config)
        self.backbone.freeze()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in _FORWARDED:
                return getattr(self.base, name)
            raise

    def train(self, mode: bool = True) -> Reprogrammed:
        """Wake program and mapping only: dropout and the like of the frozen base stay off (E§0 25)."""
        self.training = mode
        self.program.train(mode)
        self.mapping.train(mode)
        return self

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict | None = None, **kwargs: Any
    ) -> None:
        """Recompute the base's layers in backward. Non-reentrant only: the reentrant way loses slot gradients (N3)."""
        if (activation_checkpointing_kwargs or {}).get("use_reentrant"):
            raise UsageError("gradient_checkpointing_kwargs", "use_reentrant=True", "use_reentrant=False")
        self.backbone.checkpoint(True)

    gradient_checkpointing_enable = activation_checkpointing_enable

    def activation_checkpointing_disable(self) -> None:
        """Keep activations again."""
        self.backbone.checkpoint(False)

    gradient_checkpointing_disable = activation_checkpointing_disable

    def enable_input_require_grads(self) -> None:
        """Nothing: slots bring their gradient, and PEFT would leave a hook on the base's embeddings for ever."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        input_values: Tensor | None = None,
        signal_mask: Tensor | None = None,
        slot_index: Tensor | None = None,
        answer_index: Tensor | None = None,
        answer_ids: Tensor | None = None,
        adapter_names: list[str] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        readout: Tensor | None = None,
        offset: Tensor | None = None,
        symbol_index: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Laid out columns to target logits.

        Args:
            input_ids, attention_mask, slot_index: (batch, time), as `model.collator()` makes them.
            symbol_index: (batch, time) the same, where rows are written in target symbols.
            input_values, signal_mask: (batch, samples) the same, of a model that hears.
            offset: (batch,) the canvas's first sample on the source's own clock, where rows say it.
            answer_index: (batch,) or (batch, tokens) the positions that are read.
            answer_ids: (batch, tokens) the label word whose probability is read there, where words have several
                tokens.
            adapter_names: one program per row; None uses the active one.
            labels: (rows,) target ids, (rows, outputs) numbers, or (rows, tokens) ids of texts.
            num_items_in_batch: labels over the whole optimiser step, as Trainer counts them.
            readout: (batch, ...) what the active mapping reads, computed before: neither program nor base run.

        Returns:
            `logits` (batch, classes) and, with labels, `loss`; the base's own output where there is no mapping or
            the program is disabled.
        """
        for name, column in {"input_ids": input_ids, "input_values": input_values, "labels": labels}.items():
            if column is not None and not isinstance(column, Tensor):
                fix = "model.predict(rows) takes texts, model.collator()(rows) makes columns of them"
                raise UsageError(name, f"a {type(column).__name__}", "a tensor", fix)
        if readout is not None:
            rows = input_ids if input_ids is not None else input_values
            return self._mapped(Batch(), [self._read_before(readout, rows)], labels, num_items_in_batch)
        batch = self.batch(
            input_ids, attention_mask, token_type_ids, slot_index, answer_index, answer_ids, adapter_names,
            input_values, signal_mask, offset, symbol_index,
        )  # fmt: skip
        if self.disabled:
            return self.backbone.base_output(self.backbone.plain(batch))
        readings = self.mapping.readings(batch)
        if readings[0][1].kind == "base":
            extra = {} if labels is None else {"labels": labels}
            return self.backbone.base_output(self.program(batch, self.backbone), **extra)
        if labels is not None and readings[0][1].kind == "text":  # teacher forcing
            batch = replace(batch, answer_ids=labels)
        return self._mapped(batch, self._readouts(batch, readings), labels, num_items_in_batch)

    def _readouts(self, batch: Batch, readings: list[tuple[list[int] | None, Any]]) -> list[Readout]:
        """What each of the mappings reads of its rows: of one pass where the backbone can, else of a pass each."""
        if self.backbone.one_pass:
            batch = self.program(batch, self.backbone)
            states, context = self.backbone.states(batch, [reading for _, reading in readings])
            return [self._read(batch, rows, reading, states, context) for rows, reading in readings]
        found = []
        for rows, reading in readings:
            part = self.program(batch if rows is None else batch.select(rows), self.backbone)
            found.append(self.backbone.run(part, reading))
        return found

    def _mapped(
        self, batch: Batch, readouts: list[Readout], labels: Tensor | None, num_items: Tensor | int | None
    ) -> SequenceClassifierOutput:
        logits = self.mapping(batch, readouts)
        loss = None if labels is None else self.mapping.loss(batch, logits, labels, num_items)
        if loss is not None and self.training and torch.is_grad_enabled() and not loss.requires_grad:
            # Torch would say "does not require grad" in backward, and nobody what was forgotten.
            fix = "load it with is_trainable=True, or set_adapter(name) the program that is to train"
            if not any(True for site in (self.program, self.mapping) for _ in site.parameters()):
                fix = "fit_mapping(rows) estimates a mapping; to train takes a program or mapping with parameters"
            raise UsageError("model", "nothing trains: no part of these rows' programs takes a gradient", None, fix)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _read_before(self, readout: Tensor, rows: Tensor | None) -> Readout:
        reading = self.mapping.readings(Batch())[0][1]
        if rows is not None or self.disabled or reading.kind == "base":
            why = "rows to run" if rows is not None else "a disabled program" if self.disabled else "no mapping"
            raise UsageError("readout", f"given with {why}", "what the active mapping reads, alone")
        if reading.kind.startswith("frame"):
            return Readout(readout[..., :-1], readout[..., -1] > 0, reading.kind)
        if reading.kind == "positions" and reading.ids is None:  # the head is the base's, not of what was read
            return Readout(readout, None, reading.kind, *self.backbone.head.rows(slice(None)))
        return Readout(readout, kind=reading.kind)

    def batch(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None, slot_index: Tensor | None = None, answer_index: Tensor | None = None,
        answer_ids: Tensor | None = None, adapter_names: list[str] | None = None, input_values: Tensor | None = None,
        signal_mask: Tensor | None = None, offset: Tensor | None = None, symbol_index: Tensor | None = None,
    ) -> Batch:  # fmt: skip
        """Columns as a Batch."""
        names = tuple(adapter_names) if adapter_names is not None else None
        columns = Batch(
            input_ids, attention_mask, token_type_ids, slot_index=slot_index, answer_index=answer_index,
            answer_ids=answer_ids, adapters=names, input_values=input_values, signal_mask=signal_mask, offset=offset,
            symbol_index=symbol_index,
        )  # fmt: skip
        return self.backbone.accept(columns)

    def _read(self, batch: Batch, rows: list[int] | None, reading: Any, states: Tensor, context: Tensor) -> Readout:
        if rows is None:
            return self.backbone.read(batch, reading, states, context)
        index = torch.tensor(rows, device=states.device)
        return self.backbone.read(batch.select(rows), reading, states[index], context[index])

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The base's flag under its old name, which PEFT reads and transformers warns of (E§0 18)."""
        return self.base.is_activation_checkpointing

    @property
    def disabled(self) -> bool:
        """Whether `disable_adapter()` is in force."""
        return bool(self.program.disable_adapters)

    @torch.no_grad()
    def readout(self, columns: dict[str, Any], reading: Any) -> Tensor:
        """What `reading` gives for laid out columns, without mapping: (batch, K), or of frames (batch, frames, K + 1),
        whose last number says whether the frame is one."""
        return self.readouts(columns, [reading])[0]

    @torch.no_grad()
    def readouts(self, columns: dict[str, Any], readings: list[Any]) -> list[Tensor]:
        """`readout` of several readings, of one pass where the backbone can."""
        found = self._readouts(self.batch(**columns), [(None, reading) for reading in readings])
        return [
            torch.cat([f.values, f.mask.unsqueeze(-1)], -1) if reading.kind.startswith("frame") else f.values
            for f, reading in zip(found, readings, strict=True)
        ]

    @contextmanager
    def _caching(self) -> Iterator[None]:
        """Without activation checkpointing for a while: its layers drop the cache of keys and values, so that every
        new token would see itself alone."""
        on = self.is_gradient_checkpointing
        if on:
            self.backbone.checkpoint(False)
        try:
            yield
        finally:
            if on:
                self.backbone.checkpoint(True)

    @torch.no_grad()
    def write(self, columns: dict[str, Any]) -> list[tuple[list[int], float]]:
        """Ids and probability of what each laid out row says, by mappings that write texts."""
        batch, found = self.batch(**columns), {}
        for _, rows in self.program.groups(batch):
            part = self.program(batch if rows is None else batch.select(rows), self.backbone)
            index = range(len(batch)) if rows is None else rows
            with self._caching():
                found |= zip(index, self.mapping.write(part, self.backbone), strict=True)
        return [found[i] for i in range(len(batch))]

    @torch.no_grad()
    def generate(self, columns: dict[str, Any], **options: Any) -> Tensor:
        """New tokens (batch, new) of the base after the laid out rows; no mapping."""
        batch = self.batch(**columns)
        batch = self.backbone.plain(batch) if self.disabled else self.program(batch, self.backbone)
        with self._caching():
            return self.backbone.generate(batch, **options)
