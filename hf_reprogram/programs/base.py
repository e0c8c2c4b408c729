"""The contract of a program: a learnable function from a target-domain batch to a source-domain batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import UsageError
from ..registry import Options
from ..symbols import Symbols


@dataclass
class ProgramOptions(Options):
    """Options of a program."""

    kind: ClassVar[str] = "program"

    def layout(self) -> str | None:
        """The template by which the collator lays out a row; None for a program that lays nothing out."""
        return None

    def target_symbols(self) -> Symbols | None:
        """The symbols in which rows' columns are written; None for the base's own tokens."""
        return None

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        """Fill in what depends on canvas and base (sizes, layers), once, so that loading needs neither.

        Args:
            canvas: a CanvasConfig, its `samples` known; None for a base that reads.
            backbone: of the base.
            reading: what the mapping reads.

        Raises:
            ConfigError: the program cannot act on this base, or nothing of what it changes is read.
        """


class Program(nn.Module):
    """Base class of programs. A subclass states its facts, `forward` and `initialise`.

    Class facts:
        Options: its options class.
        accepts, gives: stages: `tokens` and `embeds` of text; `wave`, `features` and `latent` of sound; or `any`.
        zero_effect_at_start: whether a fresh program leaves the base's output as it was.
        learning_rate: a rate that works, in the units of its parameters.
        paper: where it comes from.
        example: a small config for the contract tests (keyword arguments of Options).
        xfail: {test name: reason} for contract tests that cannot hold.
        explains_rows: whether `explain` takes a laid out batch too, where the user gives rows.

    Args:
        options: an instance of Options.
        backbone: tells shapes; it is not kept.
        scale: the base's embedding RMS. Vectors are stored as multiples of it, so that one learning rate suits bases
            whose embeddings differ a hundredfold in size.
    """

    Options: ClassVar[type[ProgramOptions]]
    accepts: ClassVar[str] = "tokens"
    gives: ClassVar[str] = "embeds"
    zero_effect_at_start: ClassVar[bool] = False
    learning_rate: ClassVar[float]
    paper: ClassVar[str] = ""
    example: ClassVar[dict[str, Any]] = {}
    xfail: ClassVar[dict[str, str]] = {}
    explains_rows: ClassVar[bool] = False

    def __init__(self, options: ProgramOptions, backbone: Any, scale: float) -> None:
        super().__init__()
        self.options, self.scale = options, scale

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        """The batch in the source domain. All parameters are used here and nowhere else (sharding: N2)."""
        raise NotImplementedError

    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        """Set the parameters' start from the base's own statistics, random numbers from `generator` only (N29)."""

    def stride(self, numbers: Tensor) -> float:
        """One unit of a search without gradients, for one of the parameters; its first draws deviate by 0.3."""
        return 10.0 * self.learning_rate

    def fold(self, backbone: Any) -> tuple[ProgramOptions, dict[str, Tensor]]:
        """Options and state of a registered program that does the same with fewer numbers; else its own."""
        return self.options, dict(self.state_dict())

    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        """What the parameters mean in terms of the source domain, as plain rows."""
        return []


class SlotProgram(Program):
    """A program whose effect is vectors standing in slots: any number of them run as one bank in one pass.

    Subclasses give `vectors()`, (slots, width) in units of the base's embeddings.
    """

    def vectors(self) -> Tensor:
        """(slots, width), float32, in the base's own units."""
        raise NotImplementedError

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        return banked([self.vectors()], None, batch, backbone)


class WaveProgram(Program):
    """A program that changes the wave, in float32 whatever autocast says (S15).

    Subclasses give `changed(wave, batch)`, or override `forward` where more than the wave changes.
    """

    accepts = gives = "wave"

    def changed(self, wave: Tensor, batch: Batch) -> Tensor:
        """(batch, samples) in plain amplitude, from the wave (batch, samples) and what else the batch says."""
        raise NotImplementedError

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        with torch.autocast(batch.input_values.device.type, enabled=False):
            return replace(batch, input_values=self.changed(batch.input_values.float(), batch))


def signal_of(batch: Batch) -> Tensor:
    """(batch, samples) where each row's own signal sits.

    Raises:
        UsageError: a batch that does not say.
    """
    if batch.signal_mask is None:
        raise UsageError("signal_mask", "missing", "rows on their canvas", "make batches with model.collator()")
    return batch.signal_mask


def decibels(ratio: float) -> float:
    """A ratio of amplitudes in dB; that of nothing is -200, which is as good as nothing.

    Example:

        >>> decibels(10.0), decibels(0.0)
        (20.0, -200.0)
    """
    return 20 * math.log10(max(ratio, 1e-10))


def banked(states: list[Tensor], owner: Tensor | None, batch: Batch, backbone: Any) -> Batch:
    """Slots of one or several programs into one batch: `where(slot, bank[offset[owner] + slot], embed(ids))`.

    Args:
        states: per program, its vectors (slots, width).
        owner: (batch,) index into `states` of the program of each row; None where there is one program.
        batch: with `input_ids` and `slot_index` (batch, time).

    Returns:
        The batch with `embeds` (batch, time, width) in the base's dtype.
    """
    if batch.slot_index is None:
        raise UsageError(
            "slot_index",
            "missing: a slot program got plain input_ids",
            "rows laid out by the template",
            "make batches with model.collator()",
        )
    index = batch.slot_index  # (batch, time), -1 where the text stands
    if index.shape != batch.input_ids.shape:
        raise UsageError(
            "slot_index", f"of shape {tuple(index.shape)}", f"{tuple(batch.input_ids.shape)}, as input_ids"
        )
    sizes = torch.tensor([len(s) for s in states], device=index.device)
    size = sizes if owner is None else sizes[owner].unsqueeze(1)  # (1,) or (batch, 1)
    if bool((index >= size).any()):
        what = f"slot {int(index.max())}, and a program of {int(size.min())} slots"
        raise UsageError("slot_index", what, "rows laid out for this program")
    embeds = backbone.embed(batch.input_ids)  # (batch, time, width)
    slots = torch.cat(states) if len(states) > 1 else states[0]
    if not len(slots):
        return replace(batch, embeds=embeds)
    here = (index >= 0).unsqueeze(-1)
    index = index.clamp(min=0)
    if owner is not None:
        index = index + (sizes.cumsum(0) - sizes)[owner].unsqueeze(1) * here.squeeze(-1)
    # A lookup, not `slots[index]`: its backward adds up rows in a fixed order.
    vectors = nn.functional.embedding(index, slots).to(embeds.dtype)  # (batch, time, width)
    return replace(batch, embeds=torch.where(here, vectors, embeds))
