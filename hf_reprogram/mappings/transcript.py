"""`transcript`: texts in the tokens of a base that writes, through its own frozen decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..batch import Batch, Reading, Readout
from ..errors import ConfigError, DataError
from ..registry import option
from .base import Mapping, MappingOptions


@dataclass
class TranscriptConfig(MappingOptions):
    """Options of `transcript`. Rows are `{"audio": ..., "text": "what is said"}`, or of a base that reads
    `{"text": ..., "label": "what is to be written"}`.

    Example:

        >>> TranscriptConfig(language="de").problem_type
        'transcription'
    """

    problem_type: ClassVar[str] = "transcription"
    type: str = field(default="transcript", init=False)
    language: str | None = option(
        None,
        "Of the texts, as a code (de), where a base that hears is asked for one; None is its own, else English.",
    )
    most: int | None = option(
        None, "Tokens that are written at most; None is the base's own limit.", low=1, high=100_000
    )
    space: bool | None = option(
        None, "Whether a text begins with a space, as a byte-level tokenizer writes words; None asks the tokenizer."
    )
    end: int | None = option(None, "Filled in: the token that ends a text.")

    def reads(self) -> tuple[str, ...]:
        return ("text",)

    def resolve(self, tokenizer: Any, labels: list[str] | None) -> None:
        if labels is not None:
            raise ConfigError("ReprogramConfig.labels", f"{labels!r}", "None: the base's own tokens write the texts")
        if tokenizer is not None:
            self.end = tokenizer.eos_token_id
            if self.space is None:
                alone, spaced = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("a", " a"))
                self.space = alone != spaced and len(alone) == len(spaced)
        if self.end is None:
            fix = "processing_class=AutoTokenizer.from_pretrained(...); AutoProcessor, which holds one, where it hears"
            raise ConfigError("TranscriptConfig", "without the base's tokenizer, or one without eos_token", None, fix)

    def encode(self, text: str, tokenizer: Any, where: str) -> list[int]:
        if tokenizer is None:
            raise ConfigError(where, f"{text!r} without the base's tokenizer", fix="give it as processing_class")
        ids = tokenizer(" " + text if self.space else text, add_special_tokens=False)["input_ids"]
        if tokenizer.unk_token_id in ids:
            odd = tokenizer.convert_ids_to_tokens(ids)
            raise DataError(where, f"{text!r} has parts that the tokenizer does not know: {odd}"[:200], "known ones")
        return [*ids, self.end]

    def decode(self, ids: list[int], tokenizer: Any) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True).strip()


class Transcript(Mapping):
    """log p(text | row) = sum over j of log p(t_j | row, t_1 ... t_(j-1)) by the base itself, its end included.

    The base is one that hears and writes, a seq2seq model, or a causal one, whose texts follow the answer slot.
    Nothing of it learns: a program does, through all of it. The loss is teacher-forced cross entropy over
    the base's whole vocabulary, per token. Only the positions of a text are scored, and the normaliser is summed over
    slices of the vocabulary, so that no tensor of its size is kept; `predict` writes with the base's own `generate`,
    which makes one of (batch, vocabulary) at each step, the likeliest token at a time. Its score is the geometric mean
    of these tokens' probabilities.

    A decoder that hears is asked as the base's generation config says: of Whisper for a language and a task, without
    timestamps. What a program learns through it holds for the same prompt. A text that is read and longer than the
    base has room for beside its target is cut; a target never is.

    Shapes: readout and logits (batch, tokens), log-probabilities; 0 where a text has no more tokens.

    Paper: none of its own; prompts of language models are trained so (2104.08691), and of Whisper (2312.08079,
    2506.21576).
    """

    Options = TranscriptConfig
    paper = "2104.08691, 2312.08079, 2506.21576"
    example = {"most": 4}

    def __init__(self, options: TranscriptConfig, backbone: Any, labels: list[str] | None, problem_type: str) -> None:
        super().__init__(options, backbone, labels, problem_type)
        backbone.check_language(options.language)
        if options.end not in backbone.ends:
            what = f"the tokenizer ends a text with {options.end}, the base with {backbone.ends or 'nothing'}"
            fix = "base.generation_config.eos_token_id says what it ends with"
            raise ConfigError("processing_class", what, "the base's own tokenizer", fix)

    def reading(self) -> Reading:
        return Reading("text", language=self.options.language)

    def forward(self, readout: Readout) -> Tensor:
        return readout.values

    def write(self, batch: Batch, backbone: Any) -> list[tuple[list[int], float]]:
        return backbone.write(batch, self.options.language, self.options.most)

    def explain(self) -> dict[str, Any]:
        return {"reads": "texts by the base's own words", "language": self.options.language}
