"""`knowledge`: many words for each label, the useless ones dropped, each measured against its own prior (KPT)."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Reading, Readout
from ..errors import ConfigError, DataError
from ..registry import option
from .base import Mapping, MappingOptions, word_tokens


logger = logging.getLogger(__name__)


@dataclass
class KnowledgeConfig(MappingOptions):
    """Options of `knowledge`. The words come from a thesaurus or a knowledge base: `words=json.load(open(path))`; in a
    recipe the file's name will do.

    Example:

        >>> KnowledgeConfig(words={"bad": [" bad", " awful"], "good": [" good", " fine"]}).labels()
        ['bad', 'good']
    """

    type: str = field(default="knowledge", init=False)
    words: dict[str, list[str]] = option(
        {}, "Words of each class, the surest first, as they follow the template (mind the space)."
    )
    dropped: float = option(
        0.5,
        "Words that the base finds less likely on the rows of the estimate than this share of its vocabulary are "
        "left out.",
        low=0.0,
        high=0.999,
    )
    weighted: bool = option(True, "Train a weight for each word; else all words of a class count alike.")
    ids: dict[str, list[int]] | None = option(None, "Filled in: token ids of the words that can be read.")

    def validate(self) -> None:
        super().validate()
        if len(self.words) < 2 or not all(self.words.values()):
            what = 'words of at least two classes, {"bad": [" bad", " awful"], "good": [" good"]}'
            raise ConfigError("KnowledgeConfig.words", f"{self.words!r}", what)

    def labels(self) -> list[str] | None:
        return list(self.words)

    def label_words(self) -> dict[str, dict[str, Any]]:
        return {label: dict(zip(words, self.ids[label], strict=True)) for label, words in self.words.items()}

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if tokenizer is not None or self.ids is None:
            self.words, self.ids = readable(tokenizer, {label: self.words[label] for label in labels})


class Knowledge(Mapping):
    """score_c = sum over the words w of c of a_w (logit_w - prior_w), the a_w of a class a softmax of trained numbers.

    prior_w is the mean logit of w over the rows of the estimate, whose labels are not looked at. Words that are no
    single token, and words that stand with several classes, are left out when the program is made, except a class's
    first; words whose prior is among the lowest of the vocabulary when the map is estimated, again except the first.
    All a_w of a class begin alike.

    Shapes: readout (batch, words); weight (words,); prior (words,); kept (words,); logits (batch, labels).

    Paper: knowledgeable prompt tuning (2108.02035). Its released code works on log-probabilities, which differ by a
    constant of the row.
    """

    Options = KnowledgeConfig
    learning_rate = 5e-2
    paper = "2108.02035"
    # Nothing is dropped: where all but the first words go, their weights have no gradient.
    example = {"words": {"negative": [" bad", " poor", " terrible"], "positive": [" good", " love"]}, "dropped": 0.0}

    def __init__(self, options: KnowledgeConfig, backbone: Any, labels: list[str], problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        if problem_type == "regression":
            raise ConfigError(
                "ReprogramConfig.problem_type", "'regression' with the mapping 'knowledge'", "'expected'"
            )
        self.sizes = [len(options.ids[label]) for label in labels]
        self.ids = tuple(i for label in labels for i in options.ids[label])
        if max(self.ids) >= backbone.head.size or min(self.ids) < 0:
            raise ConfigError("KnowledgeConfig.ids", f"{max(self.ids)}", f"token ids below {backbone.head.size}")
        self.register_buffer("prior", torch.zeros(len(self.ids)))
        self.register_buffer("kept", torch.ones(len(self.ids), dtype=torch.uint8))
        if options.weighted:
            self.weight = nn.Parameter(torch.zeros(len(self.ids)))

    @property
    def estimated(self) -> str:
        return "once"

    def fit_reading(self) -> Reading:
        return Reading("rows")

    def reading(self) -> Reading:
        return self.fit_reading() if self.needs_fit else Reading("rows", ids=self.ids)

    def shares(self) -> Tensor:
        """(words,) a_w: of each class those of the words that are kept sum to 1."""
        weight = self.weight if self.options.weighted else torch.zeros_like(self.prior)
        weight = weight.masked_fill(self.kept == 0, -torch.inf)
        return torch.cat([part.softmax(0) for part in weight.split(self.sizes)])

    def forward(self, readout: Readout) -> Tensor:
        values = readout.values.float()
        if values.shape[1] != len(self.ids):
            values = values[:, list(self.ids)]
        counted = (values - self.prior) * self.shares()  # (batch, words)
        return torch.stack([part.sum(1) for part in counted.split(self.sizes, 1)], 1)

    @torch.no_grad()
    def fit(self, values: Tensor, labels: Tensor | None) -> None:
        prior = values.double().mean(0).cpu()  # (vocabulary,)
        mine = prior[list(self.ids)]
        if not mine.isfinite().all():
            raise DataError("fit_mapping(rows)", "NaN or infinity among the base's scores", "finite scores")
        # Rows that a base masks out are -inf, and are less likely than anything.
        place = torch.searchsorted(prior.sort().values, mine) / len(prior)  # (words,) the share that is less likely
        kept = place >= self.options.dropped
        kept[torch.tensor([0, *self.sizes[:-1]]).cumsum(0)] = True
        self.kept.copy_(kept)
        self.prior.copy_(mine)
        self.fitted.fill_(1)
        if not kept.all():
            logger.info("knowledge: %d of %d words are left out, too rare here.", int((~kept).sum()), len(kept))

    def explain(self) -> dict[str, Any]:
        """Per label its words by weight, and those that were left out."""
        found = {}
        shares, kept = self.shares().detach().split(self.sizes), self.kept.split(self.sizes)
        for label, share, keep in zip(self.labels, shares, kept, strict=True):
            words = self.options.words[label]
            order = share.argsort(descending=True, stable=True).tolist()
            found[label] = {
                "words": {words[i]: round(float(share[i]), 4) for i in order if keep[i]},
                "left out": [word for word, k in zip(words, keep, strict=True) if not k],
            }
        return {"reads": "label words", "words": found}

    def weights(self) -> tuple[list[str | int], Tensor] | None:
        words = [word for label in self.labels for word in self.options.words[label]]
        shares = self.shares().detach().split(self.sizes)
        return words, torch.block_diag(*(share.unsqueeze(0) for share in shares))


def readable(tokenizer: Any, words: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, list[int]]]:
    """The words of one token that no other class has, with their ids; of each class the first whatever it is.

    Raises:
        ConfigError: a class whose first word is no single token, or another's first too.
    """
    where, owners = "KnowledgeConfig.words", {}
    found: dict[str, dict[str, int]] = {label: {} for label in words}
    for label, listed in words.items():
        for i, word in enumerate(dict.fromkeys(listed)):
            try:
                ids = word_tokens(tokenizer, word, f"{where}[{label!r}]")
            except ConfigError:
                if tokenizer is None or i == 0:
                    raise
                continue
            if len(ids) == 1 and ids[0] not in found[label].values():
                found[label][word] = ids[0]
                owners.setdefault(ids[0], set()).add(label)
            elif i == 0:
                raise ConfigError(f"{where}[{label!r}][0]", f"{word!r} is {len(ids)} tokens", "one token")
    firsts = {label: found[label][words[label][0]] for label in words}
    if len(set(firsts.values())) < len(firsts):
        raise ConfigError(where, f"first words {firsts!r}", "a first word of its own for each class")
    kept = {
        label: {w: i for w, i in ids.items() if i == firsts[label] or (len(owners[i]) == 1)}
        for label, ids in found.items()
    }
    gone = sum(len(set(listed)) for listed in words.values()) - sum(map(len, kept.values()))
    if gone:
        logger.info("knowledge: %d words are no single token or stand with several classes.", gone)
    return {k: list(v) for k, v in kept.items()}, {k: list(v.values()) for k, v in kept.items()}
