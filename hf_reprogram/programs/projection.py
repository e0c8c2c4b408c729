"""`projection`: symbols of a language that the base never read as weighted sums of all its tokens (ReprogBERT)."""

from __future__ import annotations

from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError
from ..registry import option, options_class
from ..symbols import check_table, stand_ins
from ._symbols import SymbolOptions, placed
from .base import Program, ProgramOptions


DEVIATION = 0.02  # of the paper's random start
NEAREST = 5  # tokens that explain() names


@dataclass
class ProjectionConfig(SymbolOptions):
    """Options of `projection`.

    Example:

        >>> ProjectionConfig(symbols="ACDEFGHIKLMNPQRSTVWY", form="low_rank").rank
        8
    """

    type: str = field(default="projection", init=False)
    form: str = option(
        "full", "The table: full (symbols x vocabulary), or a product of two (low_rank).", choices=("full", "low_rank")
    )
    rank: int = option(8, "Rank of the low-rank form.", low=1, high=4096)
    init: str = option(
        "auto",
        "Start: normal (mean 0 and deviation 0.02, as the paper's), or tokens (each symbol is the base's token of its "
        "name, else one that is drawn); auto is tokens for the full form, normal for low_rank, which has no other.",
        choices=("auto", "normal", "tokens"),
    )

    def validate(self) -> None:
        super().validate()
        if self.form == "low_rank" and self.init == "tokens":
            expected = "'normal': no product of low rank picks a token for each symbol"
            raise ConfigError("ProjectionConfig.init", "'tokens' with form='low_rank'", expected)

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        count, vocabulary = len(self.symbols), backbone.vocab_size
        if self.form == "full":
            other = "form='low_rank', or the program dictionary with form='free'"
            check_table(count, vocabulary, None, "ProjectionConfig.form", other)
            return
        if self.rank >= min(count, backbone.width):
            what = f"{self.rank} for {count} symbols of width {backbone.width}"
            raise ConfigError(
                "ProjectionConfig.rank", what, f"less than {min(count, backbone.width)}", "form='full'"
            )  # fmt: skip
        check_table(count, vocabulary, self.rank, "ProjectionConfig.rank", "a smaller one")


class Projection(Program):
    """A symbol s stands in its places as x_s = theta_s E, with E (vocabulary, width) the base's embeddings.

    theta E is one small product per step, after which a symbol is looked up: nothing of the vocabulary's size is made
    for each position. E is only read. As a function it is the same as a free vector for each symbol; what differs is
    the way that training takes, through E E'.

    Parameters, float32; u = sqrt(width) / vocabulary, so that a step of Adam moves x_s about as far as one on a vector
    of width numbers, in units of the embeddings' RMS, whatever the vocabulary. Adam at the paper's 1e-5 on theta is
    here a rate of 1e-5 / u (0.011 on BERT-base):
    - `full`: theta = u `theta` (symbols, vocabulary).
    - `low_rank`: theta = u `left` (symbols, rank) @ `right` (rank, vocabulary).

    It folds to a `dictionary` of the form `free`: symbols x width numbers.

    Paper: ReprogBERT (2210.07144).
    """

    Options = ProjectionConfig
    accepts = gives = "embeds"
    learning_rate = 0.02
    paper = "2210.07144"
    example = {"symbols": ascii_lowercase, "template": "{text} it was{answer}"}

    def __init__(self, options: ProjectionConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        count, vocabulary = len(options.symbols), backbone.vocab_size
        self.unit = backbone.width**0.5 / vocabulary
        if options.form == "full":
            self.theta = nn.Parameter(torch.zeros(count, vocabulary))
        else:
            self.left = nn.Parameter(torch.zeros(count, options.rank))
            self.right = nn.Parameter(torch.zeros(options.rank, vocabulary))

    def vectors(self, backbone: Any) -> Tensor:
        """(symbols, width) in the base's own units."""
        table = backbone.table()  # (vocabulary, width)
        if self.options.form == "full":
            return self.theta @ table * self.unit
        return self.left @ (self.right @ table) * self.unit

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        with torch.autocast(batch.embeds.device.type, enabled=False):
            return placed(self.vectors(backbone), batch)

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if self.options.form == "low_rank":
            rank = self.options.rank  # the product has the same deviation as the full form's
            self.left.copy_(torch.randn(self.left.shape, generator=generator) * rank**-0.5)
            self.right.copy_(torch.randn(self.right.shape, generator=generator) * DEVIATION / self.unit)
        elif self.options.init == "normal":
            self.theta.copy_(torch.randn(self.theta.shape, generator=generator) * DEVIATION / self.unit)
        else:
            self.theta[torch.arange(len(self.theta)), self._tokens(tokenizer)] = 1 / self.unit

    def _tokens(self, tokenizer: Any) -> Tensor:
        if tokenizer is None:
            fix = "pass processing_class=tokenizer, or init='normal'"
            raise ConfigError("ProjectionConfig.init", "'tokens' without a tokenizer", fix=fix)
        ids = stand_ins(self.options.symbols, tokenizer)
        if max(ids) >= self.theta.shape[1]:
            what = f"token {max(ids)}, outside the base's vocabulary of {self.theta.shape[1]}"
            raise ConfigError("processing_class", what, "the base's own tokenizer")
        return torch.tensor(ids)

    @torch.no_grad()
    def fold(self, backbone: Any) -> tuple[ProgramOptions, dict[str, Tensor]]:
        given = {name: getattr(self.options, name) for name in ("symbols", "unknown", "spaced", "template")}
        plain = options_class("program", "dictionary")(**given, form="free")
        return plain, {"table": self.vectors(backbone) / self.scale}

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        """Per symbol: the source tokens whose embeddings point most in its direction, and the cosine of the first."""
        made = nn.functional.normalize(self.vectors(backbone))  # (symbols, width)
        near = (made @ nn.functional.normalize(backbone.table()).T).topk(min(NEAREST, backbone.vocab_size))
        found = zip(self.options.symbols, near.indices.tolist(), near.values.tolist(), strict=True)
        return [{"symbol": name, "ids": {"tokens": ids}, "cosine": values[0]} for name, ids, values in found]
