"""`tokens`: symbols of a language that the base never read, at masked positions or one after another (ReprogBERT)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError, UsageError
from ..losses import IGNORED
from ..registry import option
from ..symbols import Symbols, Targets, check_symbols, check_table, stand_ins
from .base import Mapping, MappingOptions, strongest


DEVIATION = 0.02  # of the paper's random start


@dataclass
class TokensConfig(MappingOptions):
    """Options of `tokens`.

    Example:

        >>> TokensConfig(symbols="ACGT").labels()
        ['A', 'C', 'G', 'T']
    """

    problem_type: ClassVar[str] = "transcription"
    type: str = field(default="tokens", init=False)
    symbols: list[str] | str = option("", "What is read: mostly the symbols in which the program's rows are written.")
    spaced: bool = option(False, "Whether symbols are words between spaces; else the longest that fits is taken.")
    form: str = option(
        "full",
        "The map: full (symbols x vocabulary, of the base's logits), a product of two (low_rank), or a row of the "
        "head for each symbol (free).",
        choices=("full", "low_rank", "free"),
    )
    rank: int = option(8, "Rank of the low-rank form.", low=1, high=4096)
    start: str = option(
        "auto",
        "Where it starts: normal (mean 0 and deviation 0.02, as the paper's), or tokens (a symbol has the logit of "
        "the base's token of its name, else of one that is drawn); auto is tokens, normal for low_rank.",
        choices=("auto", "normal", "tokens"),
    )
    loss_on: str = option(
        "masked",
        "Positions that count in the loss: masked (those that are asked for), or all where one of `symbols` stands. A "
        "special token of the base, padding too, counts if its name is a symbol: the released code reads them all, so "
        "what it counts takes symbols=[*'ACGT', '[PAD]', '[CLS]', '[SEP]'], as the base calls them. "
        "Recovery and perplexity are of what is asked for.",
        choices=("masked", "all"),
    )
    mask_rate: float = option(
        0.15,
        "Share of symbols masked at random in training rows that hold neither mask nor label (of a masked model).",
        low=0.01,
        high=1.0,
    )
    order: str = option(
        "confident",
        "How masks are filled: the one whose symbol is most certain first and the others anew after it (confident), "
        "from the left (left), or all at a time (once).",
        choices=("confident", "left", "once"),
    )
    most: int = option(20, "Symbols that a causal model writes at most.", low=1, high=100_000)
    end: str | None = option(None, "The symbol that ends a text, of a causal model; it is none of the text's own.")
    ids: list[int] | None = option(None, "Filled in: the base's token at which each symbol starts.")

    def validate(self) -> None:
        super().validate()
        self.symbols = check_symbols(self.symbols, None, "TokensConfig.symbols")
        if self.end is not None and self.end not in self.symbols:
            raise ConfigError("TokensConfig.end", f"{self.end!r} is no symbol", "one of the symbols, or None")
        if self.form == "low_rank" and self.start == "tokens":
            expected = "'normal': no product of low rank picks a token for each symbol"
            raise ConfigError("TokensConfig.start", "'tokens' with form='low_rank'", expected)

    def labels(self) -> list[str] | None:
        return list(self.symbols)

    def reads(self) -> tuple[str, ...]:
        return ("positions",)

    def targets(self) -> Targets | None:
        end = None if self.end is None else self.symbols.index(self.end)
        return Targets(self._symbols, self.loss_on == "all", self.mask_rate, end)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels != self.symbols:
            raise ConfigError("ReprogramConfig.labels", f"{labels!r}", "None: the symbols in their order")
        if self.start == "normal" or self.form == "low_rank":
            self.ids = None
            return
        if tokenizer is not None:
            self.ids = stand_ins(self.symbols, tokenizer)
        if self.ids is None:
            fix = "pass processing_class=tokenizer, or start='normal'"
            raise ConfigError("TokensConfig.start", "'tokens' without a tokenizer", fix=fix)
        if len(self.ids) != len(self.symbols):
            raise ConfigError("TokensConfig.ids", f"{self.ids!r}", "a token for each of the symbols")

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        return self._symbols.write(ids)

    @property
    def _symbols(self) -> Symbols:
        return Symbols(tuple(self.symbols), spaced=self.spaced)


class Tokens(Mapping):
    """Logits of the symbols at a position, y = gamma (W h + b): h is its hidden state after the head's transform, W
    (vocabulary, dim) and b the head's rows, so that W h + b are the base's own logits (without the soft cap of some
    families, which no linear map passes).

    Computed as (gamma W) h + gamma b: one small product per step, and no logits of the vocabulary's size.

    Parameters, float32; u = sqrt(dim) / vocabulary, as in the program `projection`:
    - `full`: gamma = u `gamma` (symbols, vocabulary).
    - `low_rank`: gamma = u `left` (symbols, rank) @ `right` (rank, vocabulary).
    - `free`: `rows` (symbols, dim) and `bias` (symbols,) in the place of gamma W and gamma b. The others fold to it.

    Rows of a masked model are as `fill-mask` takes them: the base's mask token stands in a text once for each symbol
    that is asked for ("EVQL[MASK][MASK]W"; an {answer} is one more), and `label` is what stands there, or the whole
    text. `predict` gives `text`, what was filled in, `sequence`, the row's columns with it, and as `score` the
    geometric mean of the probabilities. Of a causal model `label` goes on after the row. A text without mask and
    label, in the mapping's own symbols, teaches itself: masked at random, or each symbol after those before it.

    Loss: cross entropy in nats, the mean over the positions that count.

    Shapes: readout (batch, positions, dim); logits (batch, positions, symbols); labels (batch, positions), -100 where
    none counts.

    Paper: ReprogBERT (2210.07144). Its code learns no bias of gamma either, counts all positions, padding among them
    (`loss_on="all"`, the base's special tokens being symbols, as there), and fills all masks at a time
    (`order="once"`).
    """

    Options = TokensConfig
    learning_rate = 0.01
    paper = "2210.07144"
    example = {"symbols": ["negative", "positive"], "most": 2}

    def __init__(self, options: TokensConfig, backbone: Any, labels: list[str] | None, problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        count, vocabulary, width = len(options.symbols), backbone.head.size, backbone.head.width
        self.unit = width**0.5 / vocabulary
        if options.ids is not None and not 0 <= min(options.ids) <= max(options.ids) < vocabulary:
            raise ConfigError("TokensConfig.ids", f"{options.ids!r}", f"tokens below {vocabulary}")
        if options.form == "full":
            check_table(count, vocabulary, None, "TokensConfig.form", "form='low_rank' or 'free'")
            self.gamma = nn.Parameter(torch.zeros(count, vocabulary))
        elif options.form == "low_rank":
            if options.rank >= min(count, width):
                what, expected = f"{options.rank} for {count} symbols", f"less than {min(count, width)}"
                raise ConfigError("TokensConfig.rank", what, expected, "form='full'")
            check_table(count, vocabulary, options.rank, "TokensConfig.rank", "a smaller one, or form='free'")
            self.left = nn.Parameter(torch.zeros(count, options.rank))
            self.right = nn.Parameter(torch.zeros(options.rank, vocabulary))
        else:
            self.rows = nn.Parameter(torch.zeros(count, width))
            self.bias = nn.Parameter(torch.zeros(count))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        options, count = self.options, len(self.options.symbols)
        if options.form == "low_rank":  # the product has the same deviation as the full form's
            self.left.copy_(torch.randn(self.left.shape, generator=generator) * options.rank**-0.5)
            self.right.copy_(torch.randn(self.right.shape, generator=generator) * DEVIATION / self.unit)
            return
        if options.ids is None:
            gamma = torch.randn(count, backbone.head.size, generator=generator) * DEVIATION
        else:
            gamma = torch.zeros(count, backbone.head.size)
            gamma[torch.arange(count), torch.tensor(options.ids)] = 1.0
        if options.form == "full":
            self.gamma.copy_(gamma / self.unit)
        else:
            self._put(*_product(gamma, *backbone.head.rows(slice(None))))

    def _put(self, rows: Tensor, bias: Tensor) -> None:
        self.rows.copy_(rows)
        self.bias.copy_(bias)

    def reading(self) -> Reading:
        return Reading("positions", ids=() if self.options.form == "free" else None)

    def table(self, matrix: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """(rows (symbols, dim), bias (symbols,)) from the head's own, whatever is trained."""
        if self.options.form == "free":
            return self.rows, self.bias
        if self.options.form == "full":
            return _product(self.gamma * self.unit, matrix, bias)
        rows, offset = _product(self.right * self.unit, matrix, bias)
        return self.left @ rows, self.left @ offset

    def forward(self, readout: Readout) -> Tensor:
        values = readout.values  # (batch, positions, dim)
        with torch.autocast(values.device.type, enabled=False):
            return nn.functional.linear(values.float(), *self.table(readout.matrix, readout.bias))

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
        if labels.shape != logits.shape[:2]:
            what = f"of shape {tuple(labels.shape)}"
            raise UsageError("labels", what, f"{tuple(logits.shape[:2])}: a symbol, or -100, for each position")
        counted = (labels != IGNORED).sum().clamp(min=1) if num_items is None else num_items
        flat = logits.float().flatten(0, 1)
        return nn.functional.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="sum") / counted

    def measures(self, logits: Any, labels: Any) -> dict[str, float]:
        """Recovery, the share of symbols that are right, and perplexity; every mask filled for itself.

        Of positions with a label: those that are asked for, as rows that are judged are laid out.
        """
        logits, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
        there = labels != IGNORED
        if not there.any():
            return {}
        scores, wanted = logits[there], labels[there]  # (positions, symbols), (positions,)
        shifted = scores - scores.max(-1, keepdims=True)
        own = np.take_along_axis(shifted, wanted[:, None], -1)[:, 0] - np.log(np.exp(shifted).sum(-1))
        return {"recovery": float((scores.argmax(-1) == wanted).mean()), "perplexity": math.exp(-own.mean())}

    @torch.no_grad()
    def fold(self, backbone: Any) -> tuple[TokensConfig, dict[str, Tensor]]:
        plain = dataclasses.replace(self.options, form="free", rank=8, start="auto" if self.options.ids else "normal")
        rows, bias = self.table(*backbone.head.rows(slice(None)))
        return plain, {"rows": rows.clone(), "bias": bias.clone()}

    def explain(self) -> dict[str, Any]:
        found = self.weights()
        named = {"source labels": strongest(self.options.symbols, *found)} if found else {}
        return {"reads": "symbols at positions", "form": self.options.form, **named}

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        return (list(range(self.gamma.shape[1])), self.gamma * self.unit) if self.options.form == "full" else None


def _product(gamma: Tensor, matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """(gamma W, gamma b)."""
    gamma = gamma.to(matrix.device)
    return gamma @ matrix, gamma.new_zeros(len(gamma)) if bias is None else gamma @ bias
