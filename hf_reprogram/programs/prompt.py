"""`prompt`: soft prompt vectors anywhere in the input (WARP, prompt tuning and their kin)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, TemplateError
from ..registry import option
from ..template import parse, slot_count, slot_groups
from .base import ProgramOptions, SlotProgram


@dataclass
class PromptConfig(ProgramOptions):
    """Options of `prompt`.

    Example:

        >>> PromptConfig(template="{prompt:5} {text} It was{answer}").init
        'auto'
        >>> PromptConfig(template="{prompt:5} It was{answer}")
        Traceback (most recent call last):
        hf_reprogram.errors.TemplateError: PromptConfig.template: no column in '{prompt:5} It was{answer}': every row \
would look the same. Expected a column such as {text}
    """

    type: str = field(default="prompt", init=False)
    template: str = option("{prompt:10} {text}{answer}", "Where slots, columns, words and the answer stand.")
    init: str = option(
        "auto",
        "Start of the vectors: words (the embeddings of `init_text`), vocab (sampled rows of the table), mask (the "
        "mask token), normal (mean and deviation of the table); auto is words where `init_text` is given, else vocab.",
        choices=("auto", "words", "vocab", "mask", "normal"),
    )
    init_text: str | list[str] | None = option(None, "Text to start from: one, or one per group of slots.")
    parametrisation: str = option(
        "free",
        "What is trained: free vectors p; residual p + MLP(p), one small network for all slots; low_rank A B. Both "
        "fold to free vectors.",
        choices=("free", "residual", "low_rank"),
    )
    bottleneck: int = option(64, "Hidden size of the residual network.", low=1, high=65536)
    rank: int = option(4, "Rank of the low-rank form.", low=1, high=4096)

    def validate(self) -> None:
        super().validate()
        pieces = parse(self.template, "PromptConfig.template")
        groups = slot_groups(pieces)
        if not groups:
            raise TemplateError(
                "PromptConfig.template",
                f"no slots in {self.template!r}",
                "at least one {prompt:N}",
                "write {prompt:5} for five; the program none has a template without slots",
            )
        if self.init == "words" and self.init_text is None:
            raise ConfigError(
                "PromptConfig.init_text", "None, and init is 'words'", "a text, or one per group of slots"
            )
        if self.init_text is not None and self.init not in ("auto", "words"):
            raise ConfigError("PromptConfig.init_text", f"given, and init is {self.init!r}", "init='words'")
        if self.init_text is not None:
            texts = [self.init_text] if isinstance(self.init_text, str) else self.init_text
            if not all(isinstance(t, str) and t.strip() for t in texts):
                raise ConfigError("PromptConfig.init_text", f"{self.init_text!r}", "texts with at least one word")
            if isinstance(self.init_text, list) and len(texts) != len(groups):
                raise ConfigError(
                    "PromptConfig.init_text", f"{len(texts)} texts", f"one per group of slots: {len(groups)}"
                )

    def layout(self) -> str | None:
        return self.template

    @property
    def slots(self) -> int:
        """Number of slots in the template."""
        return slot_count(parse(self.template))


class Prompt(SlotProgram):
    """Every slot s of the template is a free vector p_s that replaces the embedding at its position:
    x_t = p_slot(t) where t is a slot, else E[id_t].

    Parameters, float32 in multiples of the base's embedding RMS:
    - `free`: `slots` (slots, width).
    - `residual`: p' = p + W2 relu(W1 p + b1) + b2 with `slots` p, one bottleneck network for all slots (2305.03937).
    - `low_rank`: p = A B with `left` A (slots, rank) and `right` B (rank, width), started at the best approximation
      of that rank of the free start (2310.10094).

    Papers: WARP (2101.00121), prompt tuning (2104.08691); the two above.
    """

    Options = PromptConfig
    learning_rate = 0.07
    paper = "2101.00121, 2104.08691, 2305.03937, 2310.10094"
    example = {"template": "{prompt:3} {text} {prompt:2} it was{answer}"}

    def __init__(self, options: PromptConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        count, width = options.slots, backbone.width
        if options.parametrisation == "low_rank":
            if options.rank >= min(count, width):
                raise ConfigError(
                    "PromptConfig.rank",
                    f"{options.rank} for {count} slots of width {width}",
                    f"less than {min(count, width)}",
                    "parametrisation='free'",
                )
            self.left = nn.Parameter(torch.zeros(count, options.rank))
            self.right = nn.Parameter(torch.zeros(options.rank, width))
            return
        self.slots = nn.Parameter(torch.zeros(count, width))
        if options.parametrisation == "residual":
            # No parameter of a bank is called `weight`: sharding would make it a unit of its own (N2).
            self.inner = nn.Parameter(torch.zeros(options.bottleneck, width))
            self.inner_bias = nn.Parameter(torch.zeros(options.bottleneck))
            self.outer = nn.Parameter(torch.zeros(width, options.bottleneck))
            self.outer_bias = nn.Parameter(torch.zeros(width))

    def units(self) -> Tensor:
        """(slots, width) in multiples of the base's embedding RMS, whatever is trained."""
        if self.options.parametrisation == "low_rank":
            return self.left @ self.right
        if self.options.parametrisation == "free":
            return self.slots
        hidden = nn.functional.linear(self.slots, self.inner, self.inner_bias).relu()  # (slots, bottleneck)
        return self.slots + nn.functional.linear(hidden, self.outer, self.outer_bias)

    def vectors(self) -> Tensor:
        return self.units() * self.scale

    def fold(self, backbone: Any) -> tuple[PromptConfig, dict[str, Tensor]]:
        defaults = {f.name: f.default for f in dataclasses.fields(PromptConfig)}
        names = ("parametrisation", "bottleneck", "rank")
        plain = dataclasses.replace(self.options, **{name: defaults[name] for name in names})
        return plain, {"slots": self.units().detach().clone()}

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        count, init = self.options.slots, self.options.init
        if init == "auto":
            init = "words" if self.options.init_text is not None else "vocab"
        if init == "normal":
            start = self._normal(backbone, generator)
        elif init == "vocab":
            # Ids are sorted by frequency in most vocabularies: the commonest 5000 are words, not fragments (T§1.2).
            top = min(5000, backbone.vocab_size)
            start = backbone.vectors(
                torch.randperm(top, generator=generator)[:count].tolist()
                if count <= top
                else torch.randint(top, (count,), generator=generator).tolist()
            )
        elif init == "mask":
            start = backbone.vectors([self._mask_id(tokenizer)] * count)
        else:
            ids = self._word_ids(tokenizer)
            if max(ids) >= backbone.vocab_size:
                what = f"{self.options.init_text!r} has token {max(ids)}, outside the base's vocabulary"
                raise ConfigError("PromptConfig.init_text", what, f"ids below {backbone.vocab_size}")
            start = backbone.vectors(ids)
        self._begin(start / self.scale, generator)

    def _begin(self, start: Tensor, generator: torch.Generator) -> None:
        """Parameters from the (slots, width) vectors that they should begin at."""
        if self.options.parametrisation == "low_rank":
            u, s, v = torch.linalg.svd(start.cpu(), full_matrices=False)
            root = s[: self.options.rank].sqrt()
            self.left.copy_(u[:, : len(root)] * root)
            self.right.copy_(root.unsqueeze(1) * v[: len(root)])
            return
        self.slots.copy_(start)
        if self.options.parametrisation == "residual":
            # Small, so that it starts near the vectors themselves; not zero, or no gradient would pass it.
            for matrix in (self.inner, self.outer):
                noise = torch.randn(matrix.shape, generator=generator)
                matrix.copy_(noise * 0.1 * matrix.shape[1] ** -0.5)

    def _normal(self, backbone: Any, generator: torch.Generator) -> Tensor:
        sample = backbone.vectors(range(0, backbone.vocab_size, max(backbone.vocab_size // 4096, 1)))
        noise = torch.randn(self.options.slots, sample.shape[1], generator=generator).to(sample)
        return sample.mean(0) + noise * sample.std(0)

    def _mask_id(self, tokenizer: Any) -> int:
        if tokenizer is None or tokenizer.mask_token_id is None:
            raise ConfigError(
                "PromptConfig.init", "'mask', and the tokenizer has no mask token", "words, vocab or normal"
            )
        return tokenizer.mask_token_id

    def _word_ids(self, tokenizer: Any) -> list[int]:
        """One id per slot: each group takes its text's first tokens, repeated where there are too few."""
        if tokenizer is None:
            raise ConfigError(
                "PromptConfig.init_text", "given without a tokenizer", fix="pass processing_class=tokenizer"
            )
        groups, text = slot_groups(parse(self.options.template)), self.options.init_text
        texts = [text] if isinstance(text, str) else text
        counts = [g.count for g in groups] if len(texts) > 1 or len(groups) == 1 else [self.options.slots]
        ids = []
        for words, count in zip(texts, counts, strict=True):
            tokens = tokenizer(words, add_special_tokens=False)["input_ids"]
            ids += [tokens[i % len(tokens)] for i in range(count)]
        return ids

    @torch.no_grad()
    def explain(self, backbone: Any, neighbours: int = 3) -> list[dict[str, Any]]:
        """Per slot: its nearest source tokens and their distance, relative to the size of an average token vector.

        `far` is true where a slot lies farther from its nearest token than all but one in twenty tokens lie from
        theirs: such a neighbour means nothing.
        """
        table = backbone.vectors(range(backbone.vocab_size))  # (vocabulary, width)
        size = table.norm(dim=1).mean()
        sample = torch.arange(0, len(table), max(len(table) // 256, 1), device=table.device)
        among = torch.cdist(table[sample], table)  # (sample, vocabulary)
        among[torch.arange(len(sample)), sample] = torch.inf
        usual = (among.min(1).values / size).quantile(0.95).item()
        distance = torch.cdist(self.vectors().to(table), table) / size  # (slots, vocabulary)
        near = distance.topk(min(neighbours, len(table)), largest=False)
        return [
            {"slot": i, "ids": ids, "distances": d, "far": d[0] > usual, "usual": usual}
            for i, (ids, d) in enumerate(zip(near.indices.tolist(), near.values.tolist(), strict=True))
        ]
