"""Predict, evaluate, score: functions of a model and rows, which ReprogramModel carries as methods."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .backbone.writing import NEW_TOKENS, new_tokens
from .data.rows import as_rows, label_columns, label_of, label_tensor
from .data.shares import of_all_ranks, share, world
from .data.targets import asking
from .errors import DataError, UsageError
from .features import Compute, FrozenRows, fields_of, kept, row_keys
from .filling import completed, recovered
from .losses import LOSSES
from .metrics import HALF, metrics, probabilities, text_errors
from .passes import asleep, at_least_one, batches, check_enabled
from .processors import tokenizer_of


def score(model: Any, rows: Any, batch_size: int = 32, progress: bool | None = None) -> Tensor:
    """Target logits (rows, classes) on the CPU, in the order of the rows; batches are made of rows of like length.

    Args:
        rows: texts or dict rows; an `adapter` column names a program per row.
        batch_size: rows per forward.
        progress: show a bar; None shows one from 200 rows on.
    """
    rows = as_rows(rows, model.text_column())
    if any(_writes(model, row) for row in rows):
        raise UsageError("score(rows)", "a program that writes texts scores no list of labels", None, "predict(rows)")
    collator = model.collator()
    made = collator.lay_out(rows, labelled=False)
    for name in {row.get("adapter") for row in rows}:
        model.label_names(name)  # raises where there is nothing to score
    return _logits(model, collator, made, batch_size, progress)


def _writes(model: Any, row: Any) -> bool:
    return model.problem_type(row.get("adapter")) == "transcription"


def _logits(model: Any, collator: Any, made: Sequence[Any], batch_size: int, progress: bool | None) -> Tensor:
    check_enabled(model)
    parts, order = [], []
    with asleep(model):
        for index, columns in batches(model, collator, made, batch_size, progress):
            parts.append(model(**columns).logits.float().cpu())
            order += index
    widest = max(p.shape[1] for p in parts)
    parts = [torch.nn.functional.pad(p, (0, widest - p.shape[1]), value=-torch.inf) for p in parts]
    return torch.cat(parts)[torch.tensor(order).argsort()]  # (rows, classes)


def predict(
    model: Any, rows: Any, batch_size: int = 32, top_k: int | str | None = "auto", progress: bool | None = None
) -> list:
    """The label and its probability for each row: `[{"label": "negative", "score": 0.97}]`.

    Where a row may have several labels, each has a probability of its own, and a row gives a list: all labels whose
    probability is above one half, best first; `[]` where there is none. A regression gives its numbers. A mapping that
    writes texts gives `{"text": ..., "score": ...}`; one that fills masks, or goes on in symbols, also the whole,
    `sequence`.

    Args:
        rows: a text, a dict row, or a list of these.
        top_k: "auto" as above; else labels per row, whatever their probability: 1 gives a dict per row, more (or None,
            for all) a list of dicts.
    """
    at_least_one("top_k", 1 if top_k in (None, "auto") else top_k)
    rows = as_rows(rows, model.text_column())
    if all(_writes(model, row) for row in rows):
        if top_k not in (1, None, "auto"):
            fix = "model.sample(rows, count) draws several, of a mapping that draws"
            raise UsageError("predict(top_k)", f"{top_k!r}, and the program writes one text for a row", "1", fix)
        return _written(model, rows, batch_size, progress)
    names = [model.label_names(row.get("adapter")) for row in rows]
    kinds = [model.problem_type(row.get("adapter")) for row in rows]
    made = []
    for logits, labels, kind in zip(score(model, rows, batch_size, progress), names, kinds, strict=True):
        values = probabilities(logits[: len(labels)], kind)
        if kind == "regression":  # all its numbers, in their order: none is better than another
            listed = [{"label": name, "score": value} for name, value in zip(labels, values.tolist(), strict=True)]
            made.append(listed[0] if top_k in (1, "auto") and len(listed) == 1 else listed)
            continue
        several = top_k == "auto" and kind == "multi_label_classification"
        count = int((values > HALF).sum()) if several else 1 if top_k == "auto" else top_k
        best = values.argsort(descending=True, stable=True)[:count].tolist()
        listed = [{"label": labels[i], "score": values[i].item()} for i in best]
        made.append(listed[0] if count == 1 and not several else listed)
    return made


def _written(model: Any, rows: list[dict[str, Any]], batch_size: int, progress: bool | None) -> list[dict[str, Any]]:
    """What each row says."""
    check_enabled(model)
    collator, tokenizer = model.collator(), tokenizer_of(model.processing_class)
    made, found = collator.lay_out(rows, labelled=False), {}
    if any(getattr(row, "reads", None) is not None for row in made):
        return completed(model, collator, rows, made, batch_size)
    with asleep(model):
        for index, columns in batches(model, collator, made, batch_size, progress):
            found |= zip(index, model.reprogrammed.write(columns), strict=True)
    mappings = [model.peft_config[row.get("adapter") or model.active_name()].mapping for row in rows]
    return [
        {"text": mapping.decode(found[i][0], tokenizer), "score": found[i][1]} for i, mapping in enumerate(mappings)
    ]


def evaluate(
    model: Any, rows: Any, batch_size: int = 32, features: Any = None, progress: bool | None = None
) -> dict[str, float]:
    """Metrics and mean loss on labelled rows: for labels accuracy and macro F1, beside the share of the commonest
    label; see `hf_reprogram.metrics` for the other problem types. Of texts the shares of wrong characters and of wrong
    words, as they are spelled: make case and punctuation alike beforehand where they should not count. Of symbols the
    share that is found (`recovery`), and the perplexity of the right ones, each for itself before any mask is filled;
    of rows without a label masks are drawn, the same at every call.

    Args:
        rows: dict rows with a label, or a `datasets.Dataset`.
        batch_size: rows per forward.
        features: what integer labels stand for; a dataset brings its own.
        progress: show a bar; None shows one from 200 rows on.
    """
    features = features if features is not None else getattr(rows, "features", None)
    collator = asking(model.collator(features=features))
    rows, kind = as_rows(rows, model.text_column()), model.problem_type()
    targets = label_columns(kind, model.backbone.modality == "audio")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of masks that are drawn
        made = collator.lay_out(rows)
    missing = next((i for i, row in enumerate(made) if row.label is None), None)
    if missing is not None:
        column = targets[0]
        raise DataError(f"rows[{missing}]", f"has no {column}", f'a "{column}" column on every row')
    if getattr(made[0], "reads", None) is not None:
        return recovered(model, collator, made, batch_size) | {"n": len(made)}
    labels = label_tensor([row.label for row in made])
    if kind == "transcription":
        said = [answer["text"] for answer in _written(model, rows, batch_size, progress)]
        total = 0.0
        with asleep(model):
            for _, columns in batches(model, collator, made, batch_size, progress, labelled=True):
                total += float(model(**columns, num_items_in_batch=1).loss)
        found = text_errors(said, [label_of(row, targets) for row in rows])
        return found | {"loss": total / max(int((labels >= 0).sum()), 1), "n": len(made)}
    logits = _logits(model, collator, made, batch_size, progress)
    found = metrics(logits.numpy(), labels.numpy(), kind)
    return found | {"loss": float(LOSSES[kind](logits, labels)), "n": len(made)}


def fit_mapping(
    model: Any, rows: Any = None, batch_size: int = 32, features: Any = None, cache: Any = None, rebuild: bool = False
) -> None:
    """Estimate the active mapping: from its own calibration rows, else from `rows`.

    In a process group every rank calls it: each reads its share of the rows, and all solve the same problem (N25).

    Args:
        rows: dict rows, with labels where the mapping learns from them; or `frozen_rows`, for many fits.
        batch_size: rows per forward.
        features: what integer labels stand for; a dataset brings its own.
        cache, rebuild: as for `frozen_rows`.

    Raises:
        UsageError: the mapping estimates nothing, or needs rows and got none; a cache of something else, named.
        DataError: rows without labels, a label without rows, outputs that are not finite, or the same for all rows.
    """
    mapping = model.active_mapping()
    if mapping.estimated == "never":
        trains = any(p.requires_grad for part in (*model.active_programs(), mapping) for p in part.parameters())
        fix = "train it" if trains else "predict: it needs no rows"
        raise UsageError("fit_mapping", f"the mapping {mapping.options.type!r} estimates nothing", fix=fix)
    own = mapping.calibration_rows()
    if own is not None:
        rows, cache = [dict.fromkeys(model.columns(), text) for text in own], None
    elif rows is None:
        raise UsageError("fit_mapping(rows)", "None", "rows to estimate the mapping from")
    if cache is not None:
        rows = frozen_rows(model, rows, cache, rebuild, batch_size, features)
    ranks = 1
    if isinstance(rows, FrozenRows):
        rows.check(model, mapping.labels)
        values, labels = rows.values, rows.labels
    else:
        collator, made = laid_out(model, rows, features, mapping.fit_needs_labels)
        rank, ranks = world() if own is None else (0, 1)
        part = share(made, rank, ranks)
        values, labels = _gathered(_reader(model, collator, part, batch_size), len(part)), labels_of(part)
    if mapping.fit_needs_labels and labels is None:
        why = f"labels: {mapping.options.type!r} learns from them"
        raise DataError("fit_mapping(rows)", "rows without labels", why)
    if ranks > 1:
        values = of_all_ranks(values, len(made))
        labels = of_all_ranks(labels, len(made)) if mapping.fit_needs_labels else None
    # Not in `fit`: a search meets programs under which all rows look alike, and goes on. Two rows mostly settle it.
    several = mapping.fit_needs_labels and len(values) > 1
    if several and torch.equal(values[0], values[1]) and bool((values == values[0]).all()):
        what = f"the base gives the same for all {len(values)} rows"
        fix = "look whether the rows' columns reach the base: the template, the tokenizer's unknown tokens"
        raise DataError("fit_mapping(rows)", what, "outputs that differ", fix)
    _check_weighed(model, mapping)
    mapping.fit(values, labels)


def _check_weighed(model: Any, mapping: Any) -> None:
    """Warn where class weights would move nothing: the fit does not heed them, and no loss that does is trained."""
    trains = any(True for part in (*model.active_programs(), mapping) for _ in part.parameters())
    if mapping.class_weight is not None and not mapping.fit_weighs and not trains:
        what = f"the fit of {mapping.options.type!r} for {mapping.problem_type} does not heed it, and nothing trains"
        fix = "mapping='linear' weighs rows of one label each"
        warnings.warn(f"ReprogramConfig.class_weight: {what}. Fix: {fix}", UserWarning, stacklevel=3)


def frozen_rows(
    model: Any, rows: Any, cache: Any = None, rebuild: bool = False, batch_size: int = 32, features: Any = None
) -> FrozenRows:
    """What the active mapping reads of each row, computed once: for any number of `fit_mapping` and `make_trainer`.

    Only a frozen model under a program that does not train has such rows, and only rows that are the same at every
    look: random crops and random order cannot be frozen.

    Args:
        rows: dict rows, or a dataset.
        cache: a folder that keeps the features for later runs; None keeps them in memory. It is used where base,
            tokenizer, program and reading are the same, whatever the order of the rows; else refused.
        rebuild: write the cache anew; a folder of other files is refused all the same.
        batch_size: rows per forward.
        features: what integer labels stand for; a dataset brings its own.

    Raises:
        UsageError: a program that trains, a base that is awake; a cache of something else, named.
    """
    return freeze(model, *laid_out(model, rows, features), cache, rebuild, batch_size)


def laid_out(model: Any, rows: Any, features: Any, labelled: bool = True) -> tuple[Any, Sequence[Any]]:
    """(collator, laid out rows) of what a user may call rows."""
    collator = model.collator(features=features if features is not None else getattr(rows, "features", None))
    return collator, collator.lay_out(as_rows(rows, model.text_column()), labelled=labelled)


def labels_of(made: Sequence[Any]) -> Tensor | None:
    """Labels of laid out rows, (rows, ...); None where one has none."""
    return None if any(row.label is None for row in made) else label_tensor([row.label for row in made])


def freeze(
    model: Any, collator: Any, made: Sequence[Any], cache: Any = None, rebuild: bool = False, batch_size: int = 32
) -> FrozenRows:
    """`frozen_rows` of rows that are laid out already."""
    if any(row.adapter not in (None, model.active_name()) for row in made):
        raise UsageError("frozen features", "rows of other programs than the active one", "rows of one program")
    mapping = model.active_mapping()
    fields, compute = fields_of(model, mapping.fit_reading()), _reader(model, collator, made, batch_size)
    if cache is None:
        values = _gathered(compute, len(made))
    else:
        note = {"batch_size": batch_size, "threads": torch.get_num_threads()}
        values = kept(model, cache, fields, row_keys(made), compute, rebuild, note)
    return FrozenRows(values, labels_of(made), [len(row) for row in made], mapping.labels, fields)


def _reader(model: Any, collator: Any, made: Sequence[Any], batch_size: int) -> Compute:
    """What the active mapping reads of rows, as a function of their numbers: float32 on the CPU, batch by batch."""
    reading = model.active_mapping().fit_reading()

    def compute(chosen: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        picked = [made[i] for i in chosen]
        with asleep(model), tqdm(total=len(picked), desc="features", unit="row", leave=False, delay=2) as shown:
            for index, columns in batches(model, collator, picked, batch_size, progress=False):
                read = model.reprogrammed.readout(columns, reading).float().cpu()
                if len(read) != len(index):  # several laid out rows make one
                    read = read.reshape(len(index), -1)
                yield [chosen[i] for i in index], read
                shown.update(len(index))

    return compute


def readouts(
    model: Any, collator: Any, made: Sequence[Any], readings: Sequence[Any], batch_size: int = 32,
    progress: bool | None = None,
) -> list[Tensor]:  # fmt: skip
    """What each reading gives of laid out rows, (rows, K) float32 on the CPU, in their order; of one pass where the
    backbone can."""
    parts: list[list[Tensor]] = [[] for _ in readings]
    order: list[int] = []
    with asleep(model):
        for index, columns in batches(model, collator, made, batch_size, progress):
            order += index
            for part, read in zip(parts, model.reprogrammed.readouts(columns, list(readings)), strict=True):
                part.append(read.float().cpu())
    back = torch.tensor(order).argsort()
    return [torch.cat(part)[back] for part in parts]


def _gathered(compute: Compute, count: int) -> Tensor:
    parts = list(compute(range(count)))
    order = torch.tensor([i for index, _ in parts for i in index])
    return torch.cat([values for _, values in parts])[order.argsort()]


def generate(model: Any, rows: Any = None, adapter_names: Sequence[str] | None = None, **options: Any) -> Tensor:
    """New tokens (rows, new) that the base writes after each row, by its own `generate`; no answer slot, no mapping.

    Rows that end sooner than others are filled up with the pad token. All rows go in one pass: `hr.pipeline` takes
    any number of them, and gives texts.

    What looks at tokens (`repetition_penalty`, `no_repeat_ngram_size`, `stop_strings`) sees the new ones alone: a
    prompt with slots is no list of tokens.

    Args:
        rows: texts or dict rows, whose `adapter` column names a program per row; or a batch made by
            `model.collator()`.
        adapter_names: a program for each row, in the place of that column.
        options: for the base's own `generate`: `max_new_tokens` (20 where neither you nor the base's generation config
            says how many), `num_beams`, `do_sample`, ...

    Raises:
        UsageError: a base that writes nothing; options that cannot be met, with the reason.

    Example:

        >>> from hf_reprogram.testing import build, program_config
        >>> model = build(program_config("prompt"), "llama")
        >>> model.generate(["so good", "my phone broke"], max_new_tokens=3, do_sample=False).shape
        torch.Size([2, 3])
    """
    if rows is None:  # as transformers' generate and its pipeline call it
        given = f"None, and {next(iter(options))!r} given" if options else "None"
        fix = 'model.generate(["a text"], max_new_tokens=8), or hr.pipeline("text-generation", model)'
        raise UsageError("generate(rows)", given, "texts or dict rows, which the template lays out", fix)
    columns, device = _to_write_after(model, rows, adapter_names, options), model.backbone.device
    if "stop_strings" in options:
        options.setdefault("tokenizer", tokenizer_of(model.processing_class))
    with asleep(model):
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in columns.items()}
        return model.reprogrammed.generate(moved, **options)


def _to_write_after(
    model: Any, rows: Any, adapter_names: Sequence[str] | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns of rows, or of a batch that is laid out already."""
    if isinstance(rows, Mapping) and any(isinstance(value, Tensor) for value in rows.values()):
        if "answer_ids" in rows:
            what = "a batch in which each row stands once for every label word"
            raise UsageError("generate(rows)", what, "the rows themselves")
        return {key: value for key, value in rows.items() if key != "labels"} | _named(adapter_names)
    collator = model.collator(disabled=model.reprogrammed.disabled)
    new = new_tokens(model.backbone.base, options)
    collator.for_writing(new if isinstance(new, int) else NEW_TOKENS)  # what is no number, `generate` refuses
    made = as_rows(rows, model.text_column())
    if adapter_names is not None:
        if len(adapter_names) != len(made):
            what = f"{len(adapter_names)} names for {len(made)} rows"
            raise UsageError("generate(adapter_names)", what, "one name per row")
        made = [{**row, "adapter": name} for row, name in zip(made, adapter_names, strict=True)]
    return collator.stack(collator.lay_out(made, labelled=False))


def _named(adapter_names: Sequence[str] | None) -> dict[str, Any]:
    return {} if adapter_names is None else {"adapter_names": list(adapter_names)}
