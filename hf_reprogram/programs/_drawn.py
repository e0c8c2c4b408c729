"""What programs share that put the base's own tokens into places: drawn in training, the likeliest one otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ConfigError
from ..registry import option
from ._steps import Steps
from .base import Program, ProgramOptions


FLIP = 2.0  # leads of a token that make one unit of a search without gradients


@dataclass
class DrawnOptions(ProgramOptions):
    """Options of programs that draw tokens.

    Example:

        >>> DrawnOptions().estimator
        'straight_through'
    """

    estimator: str = option(
        "straight_through",
        "What the base reads in training: a drawn token, its gradient that of the mixture (straight_through), or the "
        "mixture of tokens itself (gumbel_softmax).",
        choices=("straight_through", "gumbel_softmax"),
    )
    eval_mode: str = option(
        "hard",
        "What it reads otherwise: the likeliest token (hard), or the mixture at temperature 1 (soft).",
        choices=("hard", "soft"),
    )
    keep: float = option(
        0.99, "Probability with which a place is at first read as the token where it starts.", low=0.001, high=0.9999
    )
    temperature: float = option(2.0, "Of the mixture, at the first step.", low=1e-3, high=100.0)
    final_temperature: float = option(0.1, "The same from anneal_steps on.", low=1e-3, high=100.0)
    anneal_steps: int = option(
        1000,
        "Steps of the optimiser over which the one falls to the other, in a line. 1,000 whatever the length of the "
        "run: give its steps, for a run that is to end at final_temperature.",
        low=1,
        high=10**9,
    )

    def check_temperatures(self) -> None:
        """Raise where the temperature would rise."""
        if self.final_temperature > self.temperature:
            what = f"{self.final_temperature}, above temperature={self.temperature}"
            where = f"{type(self).__name__}.final_temperature"
            raise ConfigError(where, what, "at most that: it falls")


class Drawn(Program):
    """A token for each of some places: y = softmax((l + g) / tau) over S candidates, l from `logits`.

    - In training g is Gumbel noise of torch's own generator, and tau falls in a line over `anneal_steps` steps of the
      optimiser; accumulated passes have one tau. `gumbel_softmax`: x = y E. `straight_through`: x = E[argmax y], with
      the gradient of y E.
    - Otherwise x = E[argmax l], or with `eval_mode="soft"` softmax(l) E.

    A subclass gives `places` and `logits`; its buffers are `tokens` (S,), the candidates' ids, -1 where there are no
    more, and `steps`, those of the optimiser so far. `hf_reprogram.tools.score_function` trains it by the base's
    outputs alone.
    """

    accepts = gives = "embeds"
    tokens: Tensor
    steps: Tensor

    def __init__(self, options: Any, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self._given: Tensor | None = None
        self._steps, self._now = Steps(), torch.tensor([options.temperature])  # of the present step

    def places(self, batch: Batch) -> Tensor:
        """(batch, time) where tokens are put."""
        raise NotImplementedError

    def logits(self, batch: Batch) -> Tensor:
        """(places, S) of the candidates at every place, row by row; -inf where there is none."""
        raise NotImplementedError

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        there = self.places(batch).unsqueeze(-1)  # (batch, time, 1)
        vectors = self._vectors(batch, backbone).to(batch.embeds.dtype)  # (places, width)
        return replace(batch, embeds=batch.embeds.masked_scatter(there, vectors))

    def stride(self, numbers: Tensor) -> float:
        # Only the likeliest token is read: steps that are small beside its lead would change no word.
        return max(super().stride(numbers), FLIP * float(numbers.detach().abs().max()))

    @contextmanager
    def given(self, choice: Tensor) -> Iterator[None]:
        """Within it, forward puts these candidates, (places,) numbers below S, into the places."""
        self._given = choice
        try:
            yield
        finally:
            self._given = None

    def chosen(self, batch: Batch) -> Tensor:
        """(places,) id of the likeliest token of each."""
        return self.tokens[self.logits(batch).argmax(1)]

    @torch.no_grad()
    def read(self, batch: Batch) -> Tensor:
        """(batch, time) ids of what the base reads where each place has its likeliest token."""
        return batch.input_ids.masked_scatter(self.places(batch), self.chosen(batch).to(batch.input_ids.dtype))

    @property
    def annealed(self) -> Tensor:
        """(1,) the present temperature."""
        options = self.options
        done = (self.steps / options.anneal_steps).clamp(max=1.0)
        return options.temperature + (options.final_temperature - options.temperature) * done

    def _vectors(self, batch: Batch, backbone: Any) -> Tensor:
        """(places, width), in the base's own units."""
        if self._given is not None:
            return backbone.embed(self.tokens[self._given].long()[None])[0]
        scores = self.logits(batch)
        soft = self.options.eval_mode == "soft"
        if self.training:
            if not self._steps.lasts(self.parameters()):
                self._steps.begin(self.parameters())
                self._now = self.annealed
                self.steps += 1
            noise = -torch.empty_like(scores).exponential_().log()  # Gumbel
            scores = (scores + noise) / self._now
            soft = self.options.estimator == "gumbel_softmax"
        if not soft:
            hard = backbone.embed(self.tokens[scores.argmax(1)].long()[None])[0]
            if not (torch.is_grad_enabled() and scores.requires_grad):
                return hard
        mixed = scores.softmax(1) @ backbone.embed(self.tokens.clamp(min=0).long()[None])[0].float()
        return mixed if soft else hard + (mixed - mixed.detach())

    def likely(self, logits: Tensor, count: int = 3) -> list[dict[str, Any]]:
        """Ids and probabilities of the likeliest candidates of each of (places, S)."""
        found = logits.softmax(1).topk(min(count, int((self.tokens >= 0).sum())))
        ids = self.tokens[found.indices]
        shares = [[round(p, 4) for p in row] for row in found.values.tolist()]
        return [{"ids": {"tokens": i}, "shares": p} for i, p in zip(ids.tolist(), shares, strict=True)]

    def progress(self) -> list[dict[str, Any]]:
        """How far training is, for `explain`."""
        return [{"temperature": float(self.annealed), "steps in training": int(self.steps)}] if int(self.steps) else []


def kept_logit(keep: float, size: int) -> float:
    """The logit of one candidate among `size` whose probability is then `keep`, the others' logits being 0.

    Example:

        >>> round(kept_logit(0.5, 3), 4)  # log 2
        0.6931
    """
    return math.log(max(size - 1, 1)) + math.log(keep / (1 - keep))


def without_candidates(logits: Tensor, tokens: Tensor) -> Tensor:
    """The logits with -inf where there is no candidate."""
    return logits.masked_fill(tokens < 0, -torch.inf)


def looked_up(index: Tensor, table: Tensor) -> Tensor:
    """Rows of a table, (n, S) for (n,): a lookup, not `table[index]`, whose backward adds up in no fixed order."""
    return nn.functional.embedding(index, table)
