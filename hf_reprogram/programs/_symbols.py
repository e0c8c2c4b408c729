"""What programs over target symbols share: their options, and a table of vectors in the symbols' places."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import UsageError
from ..registry import option
from ..symbols import Symbols, check_symbols
from ..template import parse
from .base import ProgramOptions


@dataclass
class SymbolOptions(ProgramOptions):
    """Options of programs whose rows are written in symbols of their own.

    Example:

        >>> SymbolOptions(symbols="ACGT").symbols
        ['A', 'C', 'G', 'T']
    """

    symbols: list[str] | str = option(
        "", "Target symbols: a text of characters, or a list; hr.target_symbols finds those of a tokenizer or a file."
    )
    unknown: str | None = option(None, "Symbol that stands for what is none; None refuses such rows.")
    spaced: bool = option(False, "Whether symbols are words between spaces; else the longest that fits is taken.")
    template: str | None = option(
        None, "Where columns, words and the answer stand; None leaves it to another program, or is '{text}'."
    )

    def validate(self) -> None:
        super().validate()
        name = type(self).__name__
        self.symbols = check_symbols(self.symbols, self.unknown, f"{name}.symbols")
        if self.template is not None:
            parse(self.template, f"{name}.template")

    def layout(self) -> str | None:
        return self.template

    def target_symbols(self) -> Symbols | None:
        return Symbols(tuple(self.symbols), self.unknown, self.spaced)


def symbol_index(batch: Batch) -> Tensor:
    """(batch, time) number of the target symbol at each position, -1 where the base's own tokens stand.

    Raises:
        UsageError: a batch that does not say.
    """
    if batch.symbol_index is None:
        raise UsageError("symbol_index", "missing", "rows laid out by symbols", "make batches with model.collator()")
    return batch.symbol_index


def placed(table: Tensor, batch: Batch) -> Batch:
    """The batch with vectors of a table in its symbols' places.

    Args:
        table: (symbols, width), in the base's own units.
        batch: with `embeds` and `symbol_index`.

    Raises:
        UsageError: symbols of another program.
    """
    index = symbol_index(batch)  # (batch, time)
    if index.numel() and int(index.max()) >= len(table):
        what = f"symbol {int(index.max())}, and a program of {len(table)} symbols"
        raise UsageError("symbol_index", what, "rows laid out for this program")
    # A lookup, not `table[index]`: its backward adds up rows in a fixed order.
    vectors = nn.functional.embedding(index.clamp(min=0), table).to(batch.embeds.dtype)  # (batch, time, width)
    return replace(batch, embeds=torch.where((index >= 0).unsqueeze(-1), vectors, batch.embeds))
