"""`pipeline(task, model)`: raw rows in, target labels or text out, in the shapes of transformers' pipelines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from .auto import AutoReprogramModel
from .data.rows import check_frame
from .errors import BaseModelError, UsageError, did_you_mean
from .model import ReprogramModel
from .passes import at_least_one
from .processors import tokenizer_of


_MODEL = "a ReprogramModel, a folder made by save_pretrained, or a repo id"
_CHUNK = 16  # batches that are sorted by length together where rows are streamed


def pipeline(
    task: str | None = None,
    model: Any = None,
    base_model: Any = None,
    device: Any = None,
    batch_size: int = 32,
    model_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Pipeline:
    """A function of raw rows, for those who know transformers' `pipeline`.

    Args:
        task: `text-classification` (or its other name, `sentiment-analysis`), `audio-classification`,
            `automatic-speech-recognition`, `fill-mask`, or `text-generation`; None is what the program was made for:
            to write what is said, to fill masks in symbols of its own, to go on writing where there is no mapping,
            else to classify what the base reads or hears.
        model: a ReprogramModel, a folder made by `save_pretrained`, or a repo id.
        base_model: for a program that is loaded here: its base, or where to find it. None asks the program.
        device: where to run, as torch writes it. None leaves a model where it is, and puts one that is loaded here
            on this machine's accelerator, if it has one.
        batch_size: rows per forward.
        model_kwargs: for `AutoReprogramModel.from_pretrained` (`revision`, `token`, `dtype`, `device_map`, ...).
        options: of every call, which a call's own override: `top_k`, or what `generate` takes.

    Returns:
        A `Pipeline`. It takes a text, a dict row with the template's columns, a list of these, or anything else that
        gives rows one by one (a generator, a `datasets.Dataset`, also a streamed one), which it answers by an
        iterator.

    Raises:
        UsageError: an unknown task, or one that the program cannot do.
        ArtefactError: no program, a damaged one, or one of another base.

    Example:

        >>> from hf_reprogram.testing import build, program_config
        >>> classify = pipeline("text-classification", build(program_config("prompt"), "llama"))
        >>> [sorted(answer) for answer in classify(["this film was so good", "my phone broke"])]
        [['label', 'score'], ['label', 'score']]
        >>> len(classify("this film was so good", top_k=None))
        2
    """
    if model is None:
        given = not (task is None or (isinstance(task, str) and task in TASKS))
        fix = "pipeline(model=...): the first argument is the task" if given else "pipeline(model=...)"
        raise UsageError("pipeline(model)", "missing", _MODEL, fix)
    if task is not None and (not isinstance(task, str) or task not in TASKS):
        raise UsageError("pipeline(task)", f"{task!r}", "a task of programs", did_you_mean(task, TASKS))
    loading = dict(model_kwargs or {}) | ({} if base_model is None else {"base_model": base_model})
    if isinstance(model, str | os.PathLike):
        model = AutoReprogramModel.from_pretrained(model, **loading)
        placed = isinstance(base_model, PreTrainedModel) or {"device_map", "quantization_config"} & set(loading)
        if device is None and not placed and torch.accelerator.is_available():
            device = torch.accelerator.current_accelerator()
    elif not isinstance(model, ReprogramModel):
        what = repr(model).splitlines()[0][:120].rstrip("(")
        raise UsageError("pipeline(model)", what, _MODEL, "get_reprogram_model(base, config) puts a program on a base")
    elif loading:
        what = "is for loading a program, and the model is loaded"
        raise UsageError(f"pipeline({next(iter(loading))})", what, "a folder or a repo id as the model")
    task = _task_of(model) if task is None else task
    return TASKS[task](model if device is None else model.to(device), batch_size, options)


def _task_of(model: ReprogramModel) -> str:
    """What a program was made for."""
    if model.problem_type() == "transcription":
        if model.backbone.modality == "audio":
            return "automatic-speech-recognition"
        return "fill-mask" if model.active_mapping().options.targets() is not None else "text-generation"
    labels = model.peft_config[model.active_name()].labels
    plain = labels is None and model.active_mapping().options.type == "none"
    if plain and model.backbone.modality == "text" and model.reprogrammed.can_generate():
        return "text-generation"
    if labels is None:
        raise UsageError("pipeline(task)", "None, and the program has no labels", "a program with labels or texts")
    return f"{model.backbone.modality}-classification"


class Pipeline:
    """A model, and how its answers to rows look. Made by `pipeline`.

    Args:
        model: the program on its base.
        batch_size: rows per forward.
        options: of every call, which a call's own override.
    """

    def __init__(self, model: ReprogramModel, batch_size: int, options: Mapping[str, Any]) -> None:
        self.model, self.batch_size, self.options = model, batch_size, dict(options)
        self.check(self.options, ("device", "base_model", "model_kwargs"))

    def check(self, options: Mapping[str, Any], beside: Sequence[str] = ()) -> None:
        """Raise where the model cannot do the task, or the task has no such option; `beside` may be meant too."""

    def __call__(self, rows: Any, batch_size: int | None = None, **options: Any) -> Any:
        """Answers to one or many rows.

        Args:
            rows: a text, a dict row, a list of these, or an iterable.
            batch_size: rows per forward; None takes the pipeline's.
            options: of the task, over the pipeline's own.
        """
        options, size = {**self.options, **options}, self.batch_size if batch_size is None else batch_size
        at_least_one("pipeline(batch_size)", size)
        self.check(options)
        if isinstance(rows, str):
            answer = self.answers([rows], size, options)[0]
            return answer if isinstance(answer, list) else [answer]
        if isinstance(rows, Mapping):
            return self.answers([rows], size, options)[0]
        if isinstance(rows, list | tuple):
            return self.answers(rows, size, options) if rows else []
        check_frame(rows, "pipeline(...)(rows)")
        if not isinstance(rows, Iterable):
            what = f"{rows!r} is a {type(rows).__name__}"[:120]
            raise UsageError("pipeline(...)(rows)", what, "a text, a dict, or many of these")
        return self._streamed(iter(rows), size, options)

    def _streamed(self, rows: Iterator[Any], batch_size: int, options: dict[str, Any]) -> Iterator[Any]:
        while chunk := list(islice(rows, batch_size * _CHUNK)):
            yield from self.answers(chunk, batch_size, options)

    def answers(self, rows: Any, batch_size: int, options: dict[str, Any]) -> list[Any]:
        """One answer for each row, in their order."""
        raise NotImplementedError


class TextClassification(Pipeline):
    """The target's labels. As in transformers, a text gives a list with one answer, a dict row the answer itself, and
    `top_k`, wherever it is given, a list of answers for every row, best first (None: all labels).

    Where a row may have several labels, the answer without `top_k` is the likeliest; `model.predict` gives all above
    one half.

    Different from transformers: there is no `function_to_apply` (the program's problem type says what a score is),
    texts are cut to the base's length without being told to, and a text with `top_k` given to `pipeline` itself comes
    as one list, not a list in a list.
    """

    modality = "text"
    known = ("top_k",)  # options of a call
    usual: ClassVar[dict[str, Any]] = {}  # those of a call that names none

    def check(self, options: Mapping[str, Any], beside: Sequence[str] = ()) -> None:
        unknown = next((name for name in options if name not in self.known), None)
        if unknown is not None:
            fix = did_you_mean(unknown, [*self.known, "batch_size", *beside])
            raise UsageError("pipeline(...)", f"unknown option {unknown!r}", None, fix)
        writes, task = self.model.problem_type() == "transcription", self._task()
        fills = writes and self.model.active_mapping().options.targets() is not None
        suits = {"automatic-speech-recognition": writes and not fills, "fill-mask": fills}.get(task, not writes)
        if not suits:
            what = f"{task!r}, and the program {'writes texts' if writes else 'writes no texts'}"
            raise UsageError("pipeline(task)", what, "no task, or the one that the program was made for")
        modality = self.model.backbone.modality
        if modality != self.modality:
            what = f"{task!r}, and a {type(self.model.backbone.base).__name__} takes {modality}"
            raise UsageError("pipeline(task)", what, f"'{modality}-classification'")
        if not writes and self.model.peft_config[self.model.active_name()].labels is None:
            fix = 'pipeline("text-generation", ...) goes on writing' if modality == "text" else "train one with labels"
            raise UsageError("pipeline(task)", f"{task!r}, and the program has no labels", None, fix)

    def _task(self) -> str:
        return f"{self.modality}-classification"

    def answers(self, rows: Any, batch_size: int, options: dict[str, Any]) -> list[Any]:
        options = {**self.usual, **options}
        found = self.model.predict(rows, batch_size=batch_size, progress=False, **{"top_k": 1, **options})
        if options.get("top_k") != 1:
            return found
        return [answer if isinstance(answer, list) else [answer] for answer in found]


class FillMask(TextClassification):
    """What fills the masks of a row, or goes on after it, in the program's own symbols: an answer for each,
    `{"sequence": the whole, "text": what was written, "score": ...}`; a text alone gives a list of it.

    Different from transformers: one answer for all masks of a row, not the likeliest ones of each mask.
    """

    known = ()

    def _task(self) -> str:
        return "fill-mask"


class AudioClassification(TextClassification):
    """The target's labels of sounds: a path, the bytes of a file, `{"array" or "raw": ..., "sampling_rate": ...}`, an
    array at the base's own rate (as in transformers); or a dict row with `audio` or `series`. As in transformers every
    answer is a list, best first: of all labels, or of `top_k`.
    """

    modality = "audio"
    usual: ClassVar[dict[str, Any]] = {"top_k": None}

    def __call__(self, rows: Any, batch_size: int | None = None, **options: Any) -> Any:
        if isinstance(rows, bytes | np.ndarray) or (isinstance(rows, Mapping) and not {"audio", "series"} & set(rows)):
            return super().__call__([rows], batch_size, **options)[0]
        return super().__call__(rows, batch_size, **options)

    def answers(self, rows: Any, batch_size: int, options: dict[str, Any]) -> list[Any]:
        return super().answers([self._row(row) for row in rows], batch_size, options)

    def _row(self, row: Any) -> Any:
        if isinstance(row, np.ndarray):
            return {"audio": {"array": row, "sampling_rate": self.model.backbone.facts.rate}}
        if isinstance(row, Mapping) and "raw" in row:
            row = {"array": row["raw"], **{k: v for k, v in row.items() if k != "raw"}}
        bare = isinstance(row, bytes) or (isinstance(row, Mapping) and not {"audio", "series"} & set(row))
        return {"audio": row} if bare else row


class SpeechRecognition(AudioClassification):
    """What is said in sounds, in all their forms: `{"text": ..., "score": ...}` for each, as in transformers, which
    gives no score.
    """

    known = ()

    def _task(self) -> str:
        return "automatic-speech-recognition"

    def __call__(self, rows: Any, batch_size: int | None = None, **options: Any) -> Any:
        answer = super().__call__(rows, batch_size, **options)
        alone = isinstance(rows, str | bytes | np.ndarray | Mapping)
        return answer[0] if alone and isinstance(answer, list) else answer


class TextGeneration(Pipeline):
    """What the base goes on writing after the laid out row: `[{"generated_text": ...}]` for each, as in transformers
    (a text gives this list, a list of texts a list of such lists). A program that was trained on texts (`transcript`)
    writes as `predict` does where no option says otherwise.

    Different from transformers: only the new text, as with `return_full_text=False`, because slots are no text. All
    other options go to the base's own `generate`.
    """

    def check(self, options: Mapping[str, Any], beside: Sequence[str] = ()) -> None:
        if not self.model.reprogrammed.can_generate():
            what = f"'text-generation', and a {type(self.model.backbone.base).__name__} writes no text"
            raise BaseModelError("pipeline(task)", what, "a causal or a seq2seq base")
        if options.get("return_full_text"):
            raise UsageError("pipeline(return_full_text)", "True, and slots are no text", "False, as it is without it")

    def answers(self, rows: Any, batch_size: int, options: dict[str, Any]) -> list[Any]:
        tokenizer, made = tokenizer_of(self.model.processing_class), []
        options = {name: value for name, value in options.items() if name != "return_full_text"}
        writes, mapping = self.model.problem_type() == "transcription", self.model.active_mapping().options
        if writes and options and mapping.targets() is not None:
            what = "an option of the base's own generate, and the program writes symbols of its own"
            raise UsageError(f"pipeline({next(iter(options))})", what, "no option", "model.sample(rows, n) draws")
        if writes and not options:
            found = self.model.predict(rows, batch_size=batch_size, progress=False)
            return [[{"generated_text": answer["text"]}] for answer in found]
        if writes and mapping.most is not None:
            options = {"max_new_tokens": mapping.most, **options}
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            texts = tokenizer.batch_decode(self.model.generate(part, **options), skip_special_tokens=True)
            texts = [text.strip() for text in texts] if writes else texts
            several = len(texts) // len(part)  # num_return_sequences, those of a row one after the other
            made += [
                [{"generated_text": text} for text in texts[i : i + several]] for i in range(0, len(texts), several)
            ]
        return made


TASKS = {
    "text-classification": TextClassification,
    "sentiment-analysis": TextClassification,
    "audio-classification": AudioClassification,
    "automatic-speech-recognition": SpeechRecognition,
    "fill-mask": FillMask,
    "text-generation": TextGeneration,
}
