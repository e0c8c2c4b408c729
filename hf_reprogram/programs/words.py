"""`words`: a prompt of the base's own words, learned and readable (Black-box Prompt Learning)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import Batch, Reading
from ..errors import ConfigError, TemplateError, UsageError
from ..registry import option
from ..template import parse, slot_count
from ._drawn import Drawn, DrawnOptions, kept_logit, looked_up, without_candidates
from ._tokens import plain_tokens


@dataclass
class WordsConfig(DrawnOptions):
    """Options of `words`.

    Example:

        >>> WordsConfig(template="{prompt:5} {text} It was{answer}").slots
        5
    """

    type: str = field(default="words", init=False)
    template: str = option("{prompt:5} {text}{answer}", "Where slots, columns, words and the answer stand.")
    words: list[str] = option(
        [], "What a slot may be: words of one token each, as they are spelled, with their space; [] draws tokens."
    )
    candidates: int = option(200, "Tokens that are drawn where no words are given.", low=2, high=100_000)
    init_text: str | None = option(None, "What the slots read at first, of as many tokens; None is any candidate.")
    keep: float = option(
        0.5, "Probability with which a slot is at first read as the token where it starts.", low=0.001, high=0.9999
    )

    def validate(self) -> None:
        super().validate()
        if not self.slots:
            what = f"no slots in {self.template!r}"
            raise TemplateError("WordsConfig.template", what, "at least one {prompt:N}", "write {prompt:5} for five")
        if len(set(self.words)) < len(self.words) or len(self.words) == 1:
            raise ConfigError("WordsConfig.words", f"{self.words!r}", "at least two words, each once, or none")

    def layout(self) -> str | None:
        return self.template

    @property
    def slots(self) -> int:
        """Number of slots in the template."""
        return slot_count(parse(self.template, "WordsConfig.template"))

    def resolve(self, canvas: Any, backbone: Any, reading: Reading) -> None:
        self.check_temperatures()
        self.candidates = len(self.words) or min(self.candidates, backbone.vocab_size)


class Words(Drawn):
    """x_t = E[v_s] in slot s, v_s drawn with p_s = softmax(table[s]); at test the likeliest word of each slot.

    What it learned can be read, and sent to a model that takes text only (`hr.remote_text`). Where the base gives no
    gradient, `hr.fit_by_score` trains it by answers alone; else it trains straight through (`Drawn`).

    Parameters: `table` (slots, S) logits. Saved beside it: `tokens` (S,) and `steps`.

    Paper: BDPL (2201.08531). Ours differs: softmax logits in the place of probabilities that are projected onto the
    simplex, whose gradient 1 / p has no bound where p becomes 0; each row draws words of its own.
    """

    Options = WordsConfig
    learning_rate = 0.1
    paper = "2201.08531"
    example = {"template": "{prompt:3} {text} it was{answer}", "candidates": 40}

    def __init__(self, options: WordsConfig, backbone: Any, scale: float) -> None:
        super().__init__(options, backbone, scale)
        self.table = nn.Parameter(torch.zeros(options.slots, options.candidates))
        self.register_buffer("tokens", torch.full((options.candidates,), -1, dtype=torch.int32))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int32))

    def places(self, batch: Batch) -> Tensor:
        if batch.slot_index is None:
            fix = "make batches with model.collator()"
            raise UsageError("slot_index", "missing: a slot program got plain input_ids", "rows laid out", fix)
        return batch.slot_index >= 0

    def logits(self, batch: Batch) -> Tensor:
        index = batch.slot_index[self.places(batch)]  # (places,)
        if len(index) and int(index.max()) >= len(self.table):
            what = f"slot {int(index.max())}, and a program of {len(self.table)} slots"
            raise UsageError("slot_index", what, "rows laid out for this program")
        return without_candidates(looked_up(index, self.table), self.tokens)

    @torch.no_grad()
    def initialise(self, backbone: Any, generator: torch.Generator, tokenizer: Any = None) -> None:
        if tokenizer is None:
            fix = "pass processing_class=tokenizer"
            raise ConfigError("WordsConfig", "no tokenizer to tell words from special tokens", fix=fix)
        options = self.options
        plain = plain_tokens(tokenizer, backbone.vocab_size)
        begin = self._spelled(options.init_text, tokenizer) if options.init_text else []
        if begin and len(begin) != options.slots:
            what = f"{options.init_text!r} has {len(begin)} tokens"
            raise ConfigError("WordsConfig.init_text", what, f"{options.slots}, one for each slot")
        if options.words:
            ids = [self._spelled(word, tokenizer) for word in options.words]
            long = next((w for w, i in zip(options.words, ids, strict=True) if len(i) != 1), None)
            if long is not None:
                fix = "other words; of a model that is asked, hr.remote_text(tokenizer=...): else a token is a byte"
                raise ConfigError("WordsConfig.words", f"{long!r} is no single token", "words of one token each", fix)
            tokens = [i[0] for i in ids]
            strange = next((i for i in begin if i not in tokens), None)
            if strange is not None:
                what = f"{tokenizer.decode([strange])!r} is none of words"
                raise ConfigError("WordsConfig.init_text", what, "words that a slot may be")
        else:
            others = [plain[i] for i in torch.randperm(len(plain), generator=generator).tolist()]
            tokens = list(dict.fromkeys([*begin, *others]))[: options.candidates]
        self.tokens[: len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
        drawn = torch.randint(len(tokens), (options.slots,), generator=generator).tolist()
        at = [tokens.index(i) for i in begin] or drawn
        self.table[torch.arange(options.slots), torch.tensor(at)] = kept_logit(options.keep, len(tokens))

    @staticmethod
    def _spelled(text: str, tokenizer: Any) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def explain(self, backbone: Any) -> list[dict[str, Any]]:
        """Per slot the likeliest words and their probability."""
        found = self.likely(without_candidates(self.table, self.tokens))
        return self.progress() + [{"place": i} | row for i, row in enumerate(found)]
