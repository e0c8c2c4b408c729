"""`ctc`: the letters of the target's language from the base's frames, trained over all alignments (CTC)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading, Readout
from ..errors import ConfigError, DataError
from ..losses import NEVER
from ..metrics import collapsed
from ..registry import option
from .base import Mapping, MappingOptions, strongest


logger = logging.getLogger(__name__)


@dataclass
class CtcConfig(MappingOptions):
    """Options of `ctc`. Rows are `{"audio": ..., "text": "what is said"}`.

    Example:

        >>> CtcConfig(symbols=sorted(set("yes no"))).symbols
        [' ', 'e', 'n', 'o', 's', 'y']
    """

    problem_type: ClassVar[str] = "transcription"
    type: str = field(default="ctc", init=False)
    symbols: list[str] = option([], "What texts are made of: mostly letters, with the space between words.")
    on: str = option(
        "tokens",
        "What is mapped in each frame: tokens (the scores of the base's own CTC head) or state (of its encoder).",
        choices=("tokens", "state"),
    )
    layer: int | None = option(None, "Which layer's state; None is the last.", low=-200, high=200)
    start: str = option(
        "same",
        "Where a map of tokens starts: same (a symbol at the base's token of that name, or its capital), or random.",
        choices=("same", "random"),
    )
    tokens: list[int] | None = option(None, "Filled in: the base's token of each symbol, -1 where it has none.")

    def validate(self) -> None:
        super().validate()
        if not self.symbols or "" in self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise ConfigError("CtcConfig.symbols", f"{self.symbols!r}", "different symbols", 'list("abc ")')

    def labels(self) -> list[str] | None:
        return list(self.symbols)

    def reads(self) -> tuple[str, ...]:
        return ("frames",) if self.on == "tokens" else ("frame_states",)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if self.layer is not None and self.on != "state":
            raise ConfigError("CtcConfig.layer", f"{self.layer} with on={self.on!r}", "on='state'")
        if self.on == "state" or self.start == "random":
            self.tokens = None
            return
        if tokenizer is not None:
            vocabulary = tokenizer.get_vocab()
            space = getattr(tokenizer, "word_delimiter_token", None)
            self.tokens = [_token(symbol, vocabulary, space) for symbol in self.symbols]
            new = [symbol for symbol, token in zip(self.symbols, self.tokens, strict=True) if token < 0]
            if new:
                logger.warning("The base has no token for %s: they are learned from all its tokens.", new)
        if self.tokens is None:
            fix = "processing_class=AutoProcessor.from_pretrained(...), which holds one; or start='random'"
            raise ConfigError("CtcConfig.start", "'same' without the base's tokenizer", None, fix)
        if len(self.tokens) != len(self.symbols):
            raise ConfigError("CtcConfig.tokens", f"{self.tokens!r}", "one for each of the symbols")

    def encode(self, text: str, tokenizer: Any, where: str) -> list[int]:
        ids = {symbol: i for i, symbol in enumerate(self.symbols, 1)}
        longest_first = sorted(self.symbols, key=len, reverse=True)
        parts = re.findall("|".join([*map(re.escape, longest_first), "."]), text, re.DOTALL)
        odd = sorted({part for part in parts if part not in ids})
        if odd:
            what, fix = f"{text!r} has {odd}"[:160], "lower(), replace() them beforehand, or add them to the symbols"
            raise DataError(where, what, f"the symbols {''.join(self.symbols)!r}", fix)
        return [ids[part] for part in parts]

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        return "".join(self.symbols[i - 1] for i in ids)


def _token(symbol: str, vocabulary: dict[str, int], space: str | None) -> int:
    names = [space] if symbol == " " and space else [symbol, symbol.upper(), symbol.lower()]
    return next((vocabulary[name] for name in names if name in vocabulary), -1)


class Ctc(Mapping):
    """log p(symbol | frame) = log softmax(matrix @ z + bias), over blank and the target's symbols.

    z is either the log-probabilities of the base's own tokens in a frame (`on="tokens"`, a base with a CTC head) or a
    hidden state of its encoder (`on="state"`, any base whose layers run along time: a new CTC head). A map of tokens
    starts as the base itself: a symbol that has a token, by name or in capitals, has its score, blank that of blank;
    one without begins at the mean of all log-probabilities. So on a base of the same language a fresh map writes what
    the base writes; on another language the map learns which letters its sounds are written with.

    Loss: -log of the probability of the text, summed over its alignments, per symbol (`losses.transcription`). Frames
    behind the end of a row's signal say nothing: in them blank is certain. A text is written greedily: the best symbol
    of every frame, of equal neighbours one, blanks dropped. Its score is the geometric mean of these frames'
    probabilities, so that long rows are not less likely than short ones.

    Shapes: readout (batch, frames, K) with mask; matrix (1 + symbols, K), row 0 is blank; logits (batch, frames,
    1 + symbols), log-probabilities.

    After cross-lingual ASR reprogramming (2301.07851), whose output for the new language is not specified: this map is
    our reading. CTC: 10.1145/1143844.1143891.
    """

    Options = CtcConfig
    learning_rate = 1e-3
    paper = "2301.07851"
    example = {"symbols": list("abdefin")}

    def __init__(self, options: CtcConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        by_token = options.on == "tokens"
        size = backbone.tokens if by_token else backbone.state_size("mean", options.layer)
        if options.tokens and not -1 <= min(options.tokens) <= max(options.tokens) < size:
            raise ConfigError("CtcConfig.tokens", f"{options.tokens!r}", f"token ids below {size}, or -1")
        if not by_token:
            # Nothing is known yet. On Moonshine's states of 720 Arabic commands, judged on clips of the validation
            # split after ten and forty epochs of a cosine: 1e-3 writes next to nothing, of 3e-3, 1e-2 and 3e-2 the
            # largest has the fewest wrong letters and the least loss (two seeds), 1e-1 overshoots.
            self.learning_rate = 3e-2
        self.matrix = nn.Parameter(torch.zeros(1 + len(options.symbols), size))
        self.bias = nn.Parameter(torch.zeros(1 + len(options.symbols)))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        count, size = self.matrix.shape
        noise = torch.rand(count, size, generator=generator) * 2 - 1
        if self.options.on == "state":
            self.matrix.copy_(noise * size**-0.5)
            return
        self.matrix.copy_((1 + noise) / size)
        for row, token in enumerate([backbone.blank, *(self.options.tokens or [])]):
            if token >= 0:
                self.matrix[row] = nn.functional.one_hot(torch.tensor(token), size)

    def reading(self) -> Reading:
        if self.options.on == "tokens":
            return Reading("frames")
        return Reading("frame_states", layer=self.options.layer)

    def forward(self, readout: Readout) -> Tensor:
        values = readout.values.float()  # (batch, frames, K)
        if self.options.on == "tokens":
            values = values.log_softmax(-1)
        logits = nn.functional.linear(values, self.matrix, self.bias).log_softmax(-1)  # (batch, frames, 1 + symbols)
        silent = torch.full_like(logits[0, 0], NEVER)
        silent[0] = 0.0
        return torch.where(readout.mask.unsqueeze(-1), logits, silent)

    def write(self, batch: Batch, backbone: Any) -> list[tuple[list[int], float]]:
        readout = backbone.run(batch, self.reading())
        best, path = self(readout).max(-1)  # (batch, frames)
        scores = (best.sum(1) / readout.mask.sum(1)).exp().tolist()
        return [(collapsed(ids), score) for ids, score in zip(path.tolist(), scores, strict=True)]

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        return (list(range(self.matrix.shape[1])), self.matrix[1:]) if self.options.on == "tokens" else None

    def explain(self) -> dict[str, Any]:
        found = self.weights()
        named = {"source labels": strongest(self.options.symbols, *found)} if found else {}  # features have no names
        return {"reads": f"frames, {self.options.on}", **named}
