"""`embedding`: a low-rank change of every token's embedding: one map for all, an offset by position (DePT)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..errors import ConfigError, TemplateError
from ..registry import option
from ..template import parse, slot_count
from .base import Program, ProgramOptions


@dataclass
class EmbeddingConfig(ProgramOptions):
    """Options of `embedding`. It stands alone, with a template of its own, or after a `prompt`, which has one.

    Example:

        >>> alone = EmbeddingConfig(template="{text} It was{answer}", rank=8)
        >>> from hf_reprogram.config import ReprogramConfig
        >>> both = ReprogramConfig(program=[{"type": "prompt", "template": "{prompt:5} {text}"}, EmbeddingConfig()])
        >>> both.layout()
        '{prompt:5} {text}'
    """

    type: str = field(default="embedding", init=False)
    template: str | None = option(
        None,
        "Where columns, words and the answer stand, of a program that stands alone; None is the template of the "
        "prompt before it, or the text alone.",
    )
    rank: int = option(4, "Rank of the map A B; 0 is no map.", low=0, high=4096)
    position_rank: int = option(0, "Rank of the offset by position U V; 0 is no offset.", low=0, high=4096)
    positions: int = option(256, "Tokens of a row that have an offset; those after them have none.", low=1, high=10**6)
    alpha: float = option(8.0, "The offset's factor is alpha / sqrt(position_rank).", low=1e-6, high=1e6)

    def validate(self) -> None:
        super().validate()
        if not self.rank and not self.position_rank:
            raise ConfigError("EmbeddingConfig.rank", "0, and position_rank is 0", "at least one of them above 0")
        if self.template is not None and slot_count(parse(self.template, "EmbeddingConfig.template")):
            raise TemplateError(
                "EmbeddingConfig.template",
                f"slots in {self.template!r}",
                "no slots",
                "their vectors are a prompt's: program=[PromptConfig(template=...), EmbeddingConfig()]",
            )

    def layout(self) -> str | None:
        return self.template


class Embedding(Program):
    """x_j = e_j + (e_j A) B + s (U V)_j for the tokens e_1, e_2, ... of a row; slots and padding stay as they are.

    That is every token which is no slot: of the columns, of the template's words, special tokens, a mask token that
    answers, and what a causal model reads of a label word. j counts them from the row's first one, on whichever side
    padding stands. What a decoder reads, and what a model goes on to write, are no tokens of the row.

    Parameters, float32:
    - `left` A (width, rank) ~ N(0, 1/width), `right` B (rank, width) = 0. A map has no unit.
    - `place_left` U (positions, position_rank), uniform in +-1/sqrt(position_rank); `place_right` V (position_rank,
      width) = 0, in multiples of the base's embedding RMS. s = alpha / sqrt(position_rank).

    Paper: the offset is DePT's (2309.05173), which pads every row to one length; the map is ours.
    """

    Options = EmbeddingConfig
    accepts = gives = "embeds"
    zero_effect_at_start = True
    learning_rate = 5e-3
    paper = "2309.05173"
    example = {"template": "{text} it was{answer}", "rank": 3, "position_rank": 2, "positions": 6}
    xfail = {"gradient_reaches_all": "B and V are 0, so that A and U learn from the second step on"}

    def __init__(self, options: EmbeddingConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        width, rank, places = backbone.width, options.rank, options.position_rank
        _check_rank("rank", rank, width, f"embeddings of width {width}")
        _check_rank(
            "position_rank",
            places,
            min(options.positions, width),
            f"{options.positions} positions and embeddings of width {width}",
        )
        if rank:
            self.left = nn.Parameter(torch.zeros(width, rank))
            self.right = nn.Parameter(torch.zeros(rank, width))
        if places:
            self.place_left = nn.Parameter(torch.zeros(options.positions, places))
            self.place_right = nn.Parameter(torch.zeros(places, width))

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if self.options.rank:
            noise = torch.randn(self.left.shape, generator=generator)
            self.left.copy_(noise * len(self.left) ** -0.5)
        if self.options.position_rank:
            noise = torch.rand(self.place_left.shape, generator=generator) * 2 - 1
            self.place_left.copy_(noise * self.options.position_rank**-0.5)

    def mapped(self, vectors: Tensor) -> Tensor:
        """What the map adds to embeddings (..., width) of the base's own units."""
        return vectors.float() @ self.left @ self.right

    def offsets(self, places: Tensor) -> Tensor:
        """What positions (...,), counted from 0, add to an embedding: (..., width), in the base's own units."""
        # A lookup, not `place_left[places]`: its backward adds up rows in a fixed order.
        rows = F.embedding(places.clamp(0, self.options.positions - 1), self.place_left)  # (..., rank)
        rows = rows * (places < self.options.positions).unsqueeze(-1)
        factor = self.scale * self.options.alpha * self.options.position_rank**-0.5
        return rows @ self.place_right * factor

    def forward(self, batch: Batch, backbone: Any) -> Batch:
        here = batch.attention_mask > 0  # (batch, time)
        if batch.slot_index is not None:
            here = here & (batch.slot_index < 0)
        embeds = batch.embeds  # (batch, time, width)
        made = embeds.float()
        if self.options.rank:
            made = made + self.mapped(embeds)
        if self.options.position_rank:
            made = made + self.offsets(here.cumsum(1) - 1)
        return replace(batch, embeds=torch.where(here.unsqueeze(-1), made.to(embeds.dtype), embeds))

    @torch.no_grad()
    def explain(self, backbone: Any, tokens: int = 5) -> list[dict[str, Any]]:
        """How large the change is against the embeddings, and the tokens that it changes most.

        Sizes of the map are relative to the token's own vector; of the offset to an average one. A singular value
        says how many times its size a vector of that direction is moved.
        """
        table = backbone.vectors(range(backbone.vocab_size))  # (vocabulary, width)
        sizes = table.norm(dim=1)
        found: list[dict[str, Any]] = []
        if self.options.rank:
            change = self.mapped(table)
            relative = change.norm(dim=1) / sizes.clamp(min=1e-12)
            # Those of A B are those of R_A R_B', which is as small as the rank.
            core = torch.linalg.qr(self.left).R @ torch.linalg.qr(self.right.T).R.T
            values = [round(v, 4) for v in torch.linalg.svdvals(core).tolist()]
            found.append(
                {"map: mean change": relative.mean().item(), "largest": relative.max().item(), "singular": values}
            )
            most = relative.topk(min(tokens, len(table))).indices
            near = torch.cdist(table[most] + change[most], table).argmin(1)
            found += [
                {"ids": {"token": i, "now nearest": n}, "change": relative[i].item()}
                for i, n in zip(most.tolist(), near.tolist(), strict=True)
            ]
        if self.options.position_rank:
            each = self.offsets(torch.arange(self.options.positions, device=table.device)).norm(dim=1) / sizes.mean()
            largest = int(each.argmax())
            found.append({"offset: mean": each.mean().item(), "largest": each[largest].item(), "at token": largest})
        return found


def _check_rank(name: str, rank: int, limit: int, what: str) -> None:
    if rank >= limit:
        raise ConfigError(f"EmbeddingConfig.{name}", f"{rank} for {what}", f"less than {limit}")
