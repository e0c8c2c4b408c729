"""The three things that travel: a Batch goes in, a Reading says what is wanted, a Readout comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass


@dataclass
class Batch:
    """Everything about some rows that a program may change, in the source model's domain.

    All tensors are batch first. What a modality does not use stays None. `programs` take a Batch and give a new one
    (`dataclasses.replace`), they never write into the one they got.

    Args:
        input_ids: (batch, time) token ids; a harmless id stands in slots and padding.
        attention_mask: (batch, time) 1 for real positions (slots included), 0 for padding.
        token_type_ids: (batch, time) or None.
        embeds: (batch, time, width) source embeddings, once something has embedded.
        slot_index: (batch, time) number of the slot at each position, -1 where there is none.
        symbol_index: (batch, time) number of the target symbol at each position, -1 where the base's own tokens stand;
            None where rows have none.
        answer_index: (batch,) or (batch, positions) position that the mapping reads; -1 where a row has fewer.
        answer_ids: (batch, tokens) the tokens of a label word whose probability is read there, or of the text that
            the model is to write; below 0 where it has fewer.
        changed: (batch, time) whether a position's vector depends on parameters; None where nobody says.
        input_values: (batch, samples) a wave in plain amplitude, on its canvas.
        signal_mask: (batch, samples) whether the row's own signal sits there.
        offset: (batch,) number of the canvas's first sample on the source's own clock, where rows say it.
        input_features: (batch, mels, frames) a spectrogram as the base wants it.
        adapters: the program's name for every row, or None where all rows share the active one.
        hooks: (site name, function) pairs that the backbone installs for this call only.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    embeds: Tensor | None = None
    slot_index: Tensor | None = None
    symbol_index: Tensor | None = None
    answer_index: Tensor | None = None
    answer_ids: Tensor | None = None
    changed: Tensor | None = None
    input_values: Tensor | None = None
    signal_mask: Tensor | None = None
    offset: Tensor | None = None
    input_features: Tensor | None = None
    adapters: tuple[str, ...] | None = None
    hooks: tuple[tuple[str, Callable], ...] = ()

    def __len__(self) -> int:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor):
                return value.shape[0]
        return 0

    def tensors(self) -> dict[str, Tensor]:
        """The fields that hold a tensor, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}

    def select(self, rows: list[int]) -> Batch:
        """The given rows, in the given order."""
        index = torch.tensor(rows)
        picked = {k: v[index.to(v.device)] for k, v in self.tensors().items()}
        names = tuple(self.adapters[i] for i in rows) if self.adapters is not None else None
        return replace(self, **picked, adapters=names)


@dataclass(frozen=True)
class Reading:
    """What a mapping asks the backbone for. The set of kinds is closed.

    - `rows`: logits of the label rows `ids` at the answer slot: (batch, len(ids)); all rows where `ids` is None.
    - `classes`: logits of the base's own classifier: (batch, classes).
    - `state`: one hidden vector per row: (batch, dim). `pool` is `answer` (the answer slot), `head` (the same after
      the head's own transform, ready for label rows), `mean` (over the text, slots and padding left out), `statistics`
      (mean and deviation side by side) or `first`. `parts` pools so many parts of the text, or of time, each for
      itself, side by side. `layer` picks a layer of a model that hears; None is the last.
    - `frames`: the logits of a CTC head: (batch, frames, vocabulary).
    - `frame_states`: hidden vectors of a model that hears: (batch, frames, dim), of `layer`. Both have a mask: frames
      behind the end of the row's signal are none.
    - `text`: log-probabilities of the tokens of a row's own text (`answer_ids`), each after those before it, by a
      causal model or a decoder: (batch, tokens), 0 where there is none. `language` is what a multilingual model that
      hears is asked for.
    - `sequence`: log-probabilities of the tokens of a label word at their positions: (batch, tokens), 0 where there
      is none.
    - `positions`: hidden vectors after the head's own transform at all positions of `answer_index`: (batch, positions,
      dim), with a mask. Where `ids` is None all rows of the head come along, for maps that are products with them.
    - `base`: the base's own output, untouched.
    """

    kind: str
    ids: tuple[int, ...] | None = None
    pool: str = "answer"
    layer: int | None = None
    parts: int = 1
    language: str | None = None


@dataclass
class Readout:
    """What the backbone gives back: `values` (batch, ..., R), `mask` (batch, ...) where lengths differ, `kind`; of its
    head the rows, `matrix` (rows, dim) and `bias` (rows,), where they were asked for."""

    values: Tensor
    mask: Tensor | None = None
    kind: str = field(default="rows")
    matrix: Tensor | None = None
    bias: Tensor | None = None


# Without this FSDP2 finds no tensor in what a module takes and gives, hooks its backward on nothing, and dies (N2).
register_dataclass(Batch)
register_dataclass(Readout)
