"""`verbalizer`: label words read at the answer slot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError
from ..registry import option
from .base import Mapping, MappingOptions, finite, strongest, word_tokens


@dataclass
class VerbalizerConfig(MappingOptions):
    """Options of `verbalizer`.

    Example:

        >>> VerbalizerConfig(words={"negative": [" bad", " terrible"], "positive": [" good"]}).labels()
        ['negative', 'positive']
    """

    type: str = field(default="verbalizer", init=False)
    words: dict[str, list[str]] = option(
        {}, "Label words of each class, as they follow the template (mind the space)."
    )
    reduce: str = option(
        "mean",
        "How the words of a class become its score; top is the mean of the `best` of them for the row.",
        choices=("mean", "logsumexp", "max", "top"),
    )
    best: int = option(3, "So many words, where reduce='top'.", low=1, high=10**6)
    rows: str = option("fixed", "Use the base's label rows, or train copies of them.", choices=("fixed", "trained"))
    calibration: str | None = option(
        None,
        "Offset subtracted from the scores: contextual (content-free texts), domain (texts of yours), batch (rows "
        "given to fit_mapping, labels not needed); words (such rows again): from each word, before they are reduced.",
        choices=("contextual", "domain", "batch", "words"),
    )
    calibration_texts: list[str] = option(["N/A"], "Texts of contextual and domain calibration.")
    length: str = option(
        "sum",
        "Score of a word of several tokens: sum of its tokens' log-probabilities (the word's own), or their mean.",
        choices=("sum", "mean"),
    )
    ids: dict[str, list[int]] | None = option(None, "Filled in: token id of each word, where all have one token.")
    tokens: dict[str, list[list[int]]] | None = option(
        None, "Filled in: token ids of each word, where some have more."
    )

    def validate(self) -> None:
        super().validate()
        where = "VerbalizerConfig.words"
        if len(self.words) < 2:
            raise ConfigError(
                where,
                f"{self.words!r}",
                'words of at least two classes, {"negative": [" bad"], "positive": [" good"]}',
            )
        for label, words in self.words.items():
            if (
                not isinstance(label, str)
                or not isinstance(words, list)
                or not words
                or not all(isinstance(w, str) and w.strip() for w in words)
            ):
                raise ConfigError(f"{where}[{label!r}]", f"{words!r}", 'a list with at least one word, [" good"]')
        if self.calibration == "domain" and self.calibration_texts == ["N/A"]:
            raise ConfigError(
                "VerbalizerConfig.calibration_texts",
                "the content-free default",
                "texts of the domain",
                "calibration='contextual' uses content-free texts",
            )
        if not self.calibration_texts or not all(isinstance(t, str) and t.strip() for t in self.calibration_texts):
            raise ConfigError("VerbalizerConfig.calibration_texts", f"{self.calibration_texts!r}", "a list of texts")

    def labels(self) -> list[str] | None:
        return list(self.words)

    def reads(self) -> tuple[str, ...]:
        return ("sequence",) if self.tokens else ("rows",)

    def suits(self, gives: frozenset[str], base: str) -> None:
        if self.tokens and "rows" in gives and "sequence" not in gives:
            label, word = next(
                (k, w) for k in self.words for w, t in zip(self.words[k], self.tokens[k], strict=True) if t[1:]
            )
            raise ConfigError(
                f"VerbalizerConfig.words[{label!r}]",
                f"{word!r} is {len(self.tokens[label][self.words[label].index(word)])} tokens, "
                f"and a {base} answers at one position",
                "one known token",
                f"try {word[1:] if word.startswith(' ') else ' ' + word!r}, or a commoner word",
            )
        super().suits(gives, base)

    def continuations(self) -> list[list[int]] | None:
        return None if self.tokens is None else [ids for words in self.tokens.values() for ids in words]

    def label_words(self) -> dict[str, dict[str, Any]]:
        ids = self.tokens or self.ids
        return {label: dict(zip(words, ids[label], strict=True)) for label, words in self.words.items()}

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if tokenizer is not None or (self.ids is None and self.tokens is None):
            # Ids of another tokenizer mean other words.
            self.ids, self.tokens = None, self._tokenise(tokenizer, labels)
            if all(len(t) == 1 for words in self.tokens.values() for t in words):
                self.ids = {label: [t[0] for t in words] for label, words in self.tokens.items()}
                self.tokens = None
        single = {label: [[i] for i in ids] for label, ids in (self.ids or {}).items()}
        found = single if self.tokens is None else self.tokens
        counts = {label: len(words) for label, words in found.items()}
        if counts != {k: len(self.words[k]) for k in labels} or not all(t for words in found.values() for t in words):
            raise ConfigError("VerbalizerConfig.ids", f"{found!r}", "the tokens of each of the words")
        self._check_distinct(found)
        if self.tokens and self.rows == "trained":
            raise ConfigError(
                "VerbalizerConfig.rows", "'trained', and some words are of several tokens", "words of one token"
            )

    def _tokenise(self, tokenizer: Any, labels: list[str]) -> dict[str, list[list[int]]]:
        return {
            label: [word_tokens(tokenizer, w, f"VerbalizerConfig.words[{label!r}]") for w in self.words[label]]
            for label in labels
        }

    def _check_distinct(self, found: dict[str, list[list[int]]]) -> None:
        owner: dict[tuple[int, ...], str] = {}
        for label, words in found.items():
            for word, ids in zip(self.words[label], words, strict=True):
                if owner.setdefault(tuple(ids), label) != label:
                    raise ConfigError(
                        f"VerbalizerConfig.words[{label!r}]",
                        f"{word!r} is token {', '.join(map(str, ids))}, which class {owner[tuple(ids)]!r} has too",
                        "words whose tokens differ between classes",
                    )


class Verbalizer(Mapping):
    """score_c = reduce over the label words w of class c of logit_w, minus offset_c.

    `mean` averages; `logsumexp` is log of the mean of exp (so that a class with more words has no head start); `max`
    takes the best word, `top` averages the `best` of each row (several phrases for a class, 2501.13982). With
    `rows="trained"` logit_w = h . v_w + b_w on the state h after the head's transform, and v, b start at the base's
    label rows (WARP's soft verbalizer).

    Where a word has several tokens t_1 ... t_m, logit_w of every word is its exact log-probability, the sum over j of
    log p(t_j | row, t_1 ... t_(j-1)) (`length="mean"` divides by m): the row is laid out once per word and costs as
    many passes. Masked models answer at one position and refuse such words.

    Calibration is one mechanism, offset_c = log of the mean over some rows of softmax(score)_c: content-free texts
    give contextual calibration (2102.09690), a domain text gives domain-conditional PMI (2104.08315) up to a constant
    per row, unlabelled rows give batch calibration (2309.17249).

    `calibration="words"` is ours: the mean of logit_w over unlabelled rows is subtracted from logit_w, word by word.
    Where a base is asked nothing, as one that hears a single word, forms of a word ("yes", "Yes") differ more in how
    often they are written at all than in what is heard.

    Shapes: readout (batch, words), (batch, head dim), or (batch * words, tokens) for words of several tokens; logits
    (batch, classes).

    Papers: WARP (2101.00121); the three above.
    """

    Options = VerbalizerConfig
    learning_rate = 1e-3
    paper = "2101.00121, 2102.09690, 2104.08315, 2309.17249, 2501.13982"
    example = {"words": {"negative": [" bad", " poor"], "positive": [" good"]}}

    def __init__(self, options: VerbalizerConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        self.sizes = [len(options.words[label]) for label in labels]
        self.ids: tuple[int, ...] = ()
        if options.tokens:
            words = [ids for label in labels for ids in options.tokens[label]]
            self.rows_per_example = len(words)
            self.register_buffer("lengths", torch.tensor([float(len(w)) for w in words]), persistent=False)
            used = [i for word in words for i in word]
        else:
            used = self.ids = tuple(i for label in labels for i in options.ids[label])
        if max(used) >= backbone.head.size or min(used) < 0:
            raise ConfigError(
                "VerbalizerConfig.ids", f"{max(used)}", f"token ids below {backbone.head.size}, the base's vocabulary"
            )
        if options.calibration in ("contextual", "domain") and backbone.modality == "audio":
            what = f"{options.calibration!r}: texts for a base that hears"
            raise ConfigError("VerbalizerConfig.calibration", what, "'words' or 'batch': rows for fit_mapping")
        if options.calibration:
            self.register_buffer("offset", torch.zeros(sum(self.sizes) if self._by_word else len(labels)))
        if options.rows == "trained":
            self.vectors = nn.Parameter(torch.zeros(len(self.ids), backbone.head.width))
            self.bias = nn.Parameter(torch.zeros(len(self.ids)))

    @property
    def _by_word(self) -> bool:
        return self.options.calibration == "words"

    @property
    def estimated(self) -> str:
        return "once" if self.options.calibration else "never"

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator) -> None:
        if self.options.rows == "trained":
            weight, bias = backbone.head.rows(torch.tensor(self.ids, device=backbone.device))
            self.vectors.copy_(weight)
            if bias is not None:
                self.bias.copy_(bias)

    def reading(self) -> Reading:
        if self.options.tokens:
            return Reading("sequence")
        if self.options.rows == "trained":
            return Reading("state", pool="head")
        return Reading("rows", ids=self.ids)

    def calibration_rows(self) -> list[str] | None:
        return None if self.options.calibration in ("batch", "words") else self.options.calibration_texts

    def _words(self, values: Tensor) -> Tensor:
        """logit_w of every word, (batch, words)."""
        if self.options.tokens:
            # (batch * words, tokens), or (batch, words * tokens) as `fit` gets it; a word's missing tokens are 0.
            values = values.reshape(-1, self.rows_per_example, max(map(len, self.options.continuations())))
            values = values.sum(-1)  # (batch, words)
            values = values / self.lengths if self.options.length == "mean" else values
        if self.options.rows == "trained":
            values = nn.functional.linear(values.float(), self.vectors, self.bias)  # (batch, words)
        return values.float()

    def _reduced(self, words: Tensor) -> Tensor:
        groups = words.split(self.sizes, dim=1)
        if self.options.reduce == "logsumexp":
            return torch.stack([g.logsumexp(1) - math.log(g.shape[1]) for g in groups], 1)  # (batch, classes)
        if self.options.reduce == "max":
            return torch.stack([g.amax(1) for g in groups], 1)
        if self.options.reduce == "top":
            best = self.options.best
            return torch.stack([g.topk(min(best, g.shape[1]), 1).values.mean(1) for g in groups], 1)
        return torch.stack([g.mean(1) for g in groups], 1)

    def forward(self, readout: Readout) -> Tensor:
        words = self._words(readout.values)
        if self._by_word:
            return self._reduced(words - self.offset)
        scores = self._reduced(words)
        return scores - self.offset if self.options.calibration else scores

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        words = torch.from_numpy(finite(self._words(values.to(self.offset.device))))
        if self._by_word:
            self.offset.copy_(words.mean(0))
        else:
            share = self._reduced(words).softmax(1).mean(0)
            self.offset.copy_(share.clamp(min=1e-12).log())
        self.fitted.fill_(1)

    def explain(self) -> dict[str, Any]:
        offset = self.offset.tolist() if self.options.calibration else None
        return {
            "reads": "label words",
            "reduce": self.options.reduce,
            "rows": self.options.rows,
            "words": self.options.label_words(),
            "source labels": strongest(self.labels, *self.weights(), most=sum(self.sizes)),
            "offset": offset,
        }

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        each = [torch.full((size,), 1 / size if self.options.reduce == "mean" else 1.0) for size in self.sizes]
        words = [word for label in self.labels for word in self.options.words[label]]
        return words, torch.block_diag(*(share.unsqueeze(0) for share in each))
