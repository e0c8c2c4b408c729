"""`vocabulary`: each target symbol becomes one of the base's own tokens, by a learned table (Neekhara et al.)."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError, UsageError
from ..registry import option
from ._drawn import Drawn, DrawnOptions, kept_logit, looked_up, without_candidates
from ._symbols import SymbolOptions, symbol_index
from ._tokens import nearest, plain_tokens, spelled


MOST = 2**28  # numbers of a table: a gigabyte, and four in training
SHOWN = 32  # contexts of explain


@dataclass
class VocabularyConfig(DrawnOptions, SymbolOptions):
    """Options of `vocabulary`.

    Example:

        >>> VocabularyConfig(symbols="ACGT", context=3).candidates
        2000
    """

    type: str = field(default="vocabulary", init=False)
    context: int = option(
        1, "Symbols that decide what one becomes: itself and its neighbours on both sides; odd.", low=1, high=63
    )
    candidates: int = option(
        2000,
        "Tokens that symbols may become: those by which the tokenizer knows the symbols, and others drawn at the "
        "start; as many as the base has is all.",
        low=2,
        high=10_000_000,
    )
    rank: int | None = option(None, "Rank of the table as two factors; None is a full one.", low=1, high=4096)
    top_k: int | None = option(
        None,
        "Of the candidates, how many each symbol may become: those nearest, by angle, to the token where it starts. "
        "None is all; with context=1 and no rank.",
        low=2,
        high=4096,
    )
    folded: bool = option(False, "Filled in by fold: every symbol is its token, and nothing trains.")

    def validate(self) -> None:
        super().validate()
        if self.context % 2 == 0:
            raise ConfigError("VocabularyConfig.context", f"{self.context}", "an odd number of symbols")

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        self.check_temperatures()
        self.candidates = min(self.candidates, backbone.vocab_size)
        rows = self.context * len(self.symbols)
        if self.rank is not None and self.rank >= min(rows, self.candidates):
            what = f"{self.rank} of a table of {rows} by {self.candidates}"
            raise ConfigError("VocabularyConfig.rank", what, f"less than {min(rows, self.candidates)}", "rank=None")
        if self.top_k is not None and (self.context > 1 or self.rank is not None):
            beside = f"context={self.context}" if self.context > 1 else f"rank={self.rank}"
            expected = "None: what a neighbour says, and a factor, is of candidates that all symbols share"
            raise ConfigError("VocabularyConfig.top_k", f"{self.top_k} with {beside}", expected)
        if self.top_k is not None and self.top_k > self.candidates:
            raise _too_many(self.top_k, self.candidates)
        numbers = (rows + self.candidates) * self.rank if self.rank else rows * self.candidates
        if numbers > MOST:
            what = f"{rows:,} by {self.candidates:,}, {numbers / 2**28:.1f} GB and in training four times that"
            fix = "fewer candidates, or a rank: rank=16 takes "
            fix += f"{(rows + self.candidates) * 16 / 2**18:.0f} MB"
            raise ConfigError("VocabularyConfig.candidates", f"a table of {what}", f"at most {MOST:,} numbers", fix)


class Vocabulary(Drawn):
    """x_t = E[v], v drawn with p_t = softmax(l_t), l_t = sum over j of table[j, s_(t+j)], s_t the symbol at t.

    The table is a convolution over the row's symbols, one for each place of the context; what stands beside them (the
    template's words, special tokens, padding) counts for nothing. v is one of S candidates, never a special token.

    What is drawn in training, and read otherwise, stands at `Drawn`. Start: every symbol reads as one token with
    probability `keep`: as itself where the tokenizer has a token for it, else as the candidate nearest to its pieces,
    else as any. Not as the mean of all, which says nothing.

    Parameters, logits: `table` (context, symbols, S), or `left` (context, symbols, rank) and `right` (rank, S). With
    `top_k` a symbol has logits of k candidates alone, those nearest to where it starts: `table` (1, symbols, k), of
    the candidates numbered `own` (symbols, k); all others have probability 0. Saved beside them: `tokens`
    (S,) the candidates' ids, -1 where there are no more, and `steps`, those of the optimiser so far.

    Where the base gives no gradient, `hf_reprogram.tools.score_function` trains the same table by its outputs alone.

    Paper: Adversarial Reprogramming of Text Classification Neural Networks (1809.01829). Ours differs: a part of the
    vocabulary, a start at tokens, straight through by default; its code reads mixtures at test time too.
    """

    Options = VocabularyConfig
    learning_rate = 0.1  # at 0.5 the start is lost within an epoch and a map behind it has nothing to hold on to
    paper = "1809.01829"
    example = {"symbols": "abcdefghijklmnopqrstuvwxyz", "context": 3, "template": "{text} it was{answer}"}
    explains_rows = True

    def __init__(self, options: VocabularyConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        count, size = len(options.symbols), options.candidates
        places = count if options.folded else size
        self.register_buffer("tokens", torch.full((places,), -1, dtype=torch.int32))
        if options.folded:
            return
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int32))
        if options.top_k is not None:
            self.register_buffer("own", torch.zeros(count, options.top_k, dtype=torch.int32))
        if options.rank is None:
            self.table = nn.Parameter(torch.zeros(options.context, count, options.top_k or size))
        else:
            self.left = nn.Parameter(torch.zeros(options.context, count, options.rank))
            self.right = nn.Parameter(torch.zeros(options.rank, size))

    # What is read

    def places(self, batch: Batch) -> Tensor:
        there = symbol_index(batch) >= 0
        return there if batch.attention_mask is None else there & batch.attention_mask.bool()

    def logits(self, batch: Batch) -> Tensor:
        return self._logits(self._contexts(batch))

    def chosen(self, batch: Batch) -> Tensor:
        return self._chosen(self._contexts(batch))

    def _contexts(self, batch: Batch) -> Tensor:
        """(symbols there, context) numbers of each symbol and its neighbours, -1 where there is none."""
        there, half = self.places(batch), self.options.context // 2
        index = batch.symbol_index.where(there, -1)  # (batch, time)
        if index.numel() and int(index.max()) >= len(self.options.symbols):
            what = f"symbol {int(index.max())}, and a program of {len(self.options.symbols)} symbols"
            raise UsageError("symbol_index", what, "rows laid out for this program")
        around = nn.functional.pad(index, (half, half), value=-1).unfold(1, self.options.context, 1)
        return around[there]

    def _logits(self, contexts: Tensor) -> Tensor:
        total: Any = 0.0
        for place, symbols in enumerate(contexts.unbind(1)):
            rows = self._rows(place) if self.options.rank is None else self.left[place]
            total = total + looked_up(symbols.clamp(min=0), rows) * (symbols >= 0).unsqueeze(1)
        total = total if self.options.rank is None else total @ self.right
        return without_candidates(total, self.tokens)

    def _rows(self, place: int) -> Tensor:
        """(symbols, S) logits of a place of the context, -inf of what a symbol may not become."""
        if self.options.top_k is None:
            return self.table[place]
        nothing = self.table.new_full((len(self.own), len(self.tokens)), -torch.inf)
        return nothing.scatter(1, self.own.long(), self.table[place])

    def _chosen(self, contexts: Tensor) -> Tensor:
        """(symbols there,) id of the likeliest token of each."""
        return self.tokens[contexts[:, 0] if self.options.folded else self._logits(contexts).argmax(1)]

    def _vectors(self, batch: Batch, backbone: Any) -> Tensor:
        if self.options.folded:
            return backbone.embed(self.chosen(batch).long()[None])[0]
        return super()._vectors(batch, backbone)

    # Where it starts

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if self.options.folded:
            what = "True for a fresh program"
            raise ConfigError("VocabularyConfig.folded", what, "False", "model.fold() makes it of a trained one")
        if tokenizer is None:
            fix = "pass processing_class=tokenizer"
            raise ConfigError("VocabularyConfig", "no tokenizer to tell words from special tokens", fix=fix)
        plain = plain_tokens(tokenizer, backbone.vocab_size)
        pieces = spelled(self.options.symbols, tokenizer, self.options.spaced, plain)
        size = min(len(self.tokens), len(plain))
        known = list(dict.fromkeys(ids[0] for ids in pieces if len(ids) == 1))[:size]
        others = [plain[i] for i in torch.randperm(len(plain), generator=generator).tolist()]
        tokens = [*known, *[i for i in others if i not in set(known)][: size - len(known)]]
        self.tokens[:size] = torch.tensor(tokens, dtype=torch.int32)
        vectors = backbone.vectors(tokens).cpu()  # (size, width)
        drawn = torch.randperm(size, generator=generator)
        start = drawn.repeat(-(-len(pieces) // size))[: len(pieces)]  # where nothing is known of a symbol
        self._begin(nearest(pieces, start, vectors, backbone), vectors, generator)

    def _begin(self, start: Tensor, vectors: Tensor, generator: torch.Generator) -> None:
        """Logits from the candidate (symbols,) at which each symbol should start."""
        options, middle, size = self.options, self.options.context // 2, len(vectors)
        if options.top_k is not None:
            self.own.copy_(_nearest_to(start, vectors, options.top_k))
            self.table[middle, :, 0] = kept_logit(options.keep, options.top_k)
            return
        if options.rank is None:
            rows = torch.arange(len(start))
            self.table[middle, rows, start.to(self.table.device)] = kept_logit(options.keep, size)
            return
        # Directions in which tokens that are alike lie alike; as sharp as `keep` asks, where they can be told apart.
        down = torch.randn(vectors.shape[1], options.rank, generator=generator)
        basis = nn.functional.normalize(vectors @ down, dim=1)  # (size, rank)
        sharp, some = 1.0, start[:256]
        while sharp < 1000 and _share(sharp * basis[some] @ basis.T, some) < options.keep:
            sharp *= 1.2
        self.left[middle] = (sharp * basis[start]).to(self.left)
        self.right[:, :size] = basis.T.to(self.right)

    # What it means

    def fold(self, backbone: Any) -> tuple[VocabularyConfig, dict[str, Tensor]]:
        options = self.options
        if options.context > 1 or options.eval_mode == "soft" or options.folded:
            return options, dict(self.state_dict())
        defaults = {f.name: f.default for f in dataclasses.fields(options) if f.default is not dataclasses.MISSING}
        names = ("rank", "top_k", "estimator", "keep", "temperature", "final_temperature", "anneal_steps")
        plain = replace(options, **{name: defaults[name] for name in names}, folded=True)
        return plain, {"tokens": self._chosen(self._alone()).detach().clone()}

    def _alone(self) -> Tensor:
        """(symbols, context) each symbol without neighbours."""
        count, middle = len(self.options.symbols), self.options.context // 2
        contexts = torch.full((count, self.options.context), -1, device=self.tokens.device)
        contexts[:, middle] = torch.arange(count)
        return contexts

    @torch.no_grad()
    def explain(self, backbone: Any, batch: Batch | None = None) -> list[dict[str, Any]]:
        """Per symbol the likeliest tokens and their probability: without neighbours, or of the commonest contexts in a
        laid out batch."""
        contexts, names = self._alone(), self.options.symbols
        if batch is not None:
            common = Counter(map(tuple, self._contexts(batch).tolist())).most_common(SHOWN)
            found = torch.tensor([context for context, _ in common], dtype=contexts.dtype, device=contexts.device)
            contexts = found.reshape(-1, contexts.shape[1])  # of rows of masks alone there is none
        rows: list[dict[str, Any]] = [] if self.options.folded else self.progress()
        for context, found in zip(contexts.tolist(), self._likely(contexts), strict=True):
            told = {"symbol": names[context[len(context) // 2]]}
            if batch is not None:
                told["context"] = [names[i] if i >= 0 else "" for i in context]
            rows.append(told | found)
        return rows

    def _likely(self, contexts: Tensor) -> list[dict[str, Any]]:
        if self.options.folded:
            return [{"ids": {"token": i}} for i in self._chosen(contexts).tolist()]
        return self.likely(self._logits(contexts))


def _nearest_to(start: Tensor, vectors: Tensor, k: int) -> Tensor:
    """(symbols, k) numbers of the candidates (S, width) that are nearest, by angle, to those (symbols,) where symbols
    start, which come first."""
    if k > len(vectors):
        raise _too_many(k, len(vectors))
    unit = nn.functional.normalize(vectors, dim=1)
    parts = start.split(1024)
    return torch.cat([(unit[i] @ unit.T).scatter(1, i.unsqueeze(1), torch.inf).topk(k).indices for i in parts])


def _too_many(k: int, size: int) -> ConfigError:
    what = f"{k} of {size} candidates"
    return ConfigError("VocabularyConfig.top_k", what, f"at most {size}", "more candidates, or top_k=None for all")


def _share(logits: Tensor, start: Tensor) -> float:
    """Mean probability of where each symbol starts."""
    return float(logits.softmax(1).gather(1, start.unsqueeze(1)).mean())
