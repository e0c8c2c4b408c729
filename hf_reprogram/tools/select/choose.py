"""Look at every candidate: its readings, their measures, and the same of random weights at its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.rows import LABEL_COLUMNS, as_rows, label_id, label_names, label_of
from ...errors import ConfigError, DataError, ReprogramError, UsageError
from ...template import columns, parse
from ...training.job import load_base
from ...training.recipe import BaseRecipe
from ..random_source import random_source
from .compare import compared
from .measures import interval, measured, remarks
from .readings import NAMES, Candidate, scores, stratified
from .report import Entry, Selection
from .simple import simple


def select(
    models: Sequence[str] | Mapping[str, tuple[Any, Any]],
    rows: Any,
    labels: Sequence[str] | None = None,
    template: str | None = None,
    count: int = 256,
    gradients: int = 32,
    random_seeds: Sequence[int] = (0, 1, 2),
    source_rows: Any = None,
    features: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Selection:
    """Rank frozen models for a task by what they say of a sample of its rows. Nothing is trained.

    The order is that of the accuracy of the ridge map of each reading, every row told by the map of all others. The
    other measures stand beside it, and so does all of it on the same model with random weights: what such a model
    reaches is no knowledge of the candidate's.

    Args:
        models: folders or names on the Hub; or by name (model, processing class) that are loaded.
        rows: labelled dict rows, a dataset.
        labels: names of the target labels; None takes those of the rows.
        template: how a text is laid out; None is the text, and an answer slot after it where the model answers.
        count: rows that are looked at, each label in its share.
        gradients: rows whose gradients are taken at the start of a soft prompt (a wave, for sounds); 0 takes none.
        random_seeds: of the random weights; () leaves them out.
        source_rows: rows of what the models were made for: how far the target's outputs lie from theirs (sliced
            Wasserstein); with labels that are the base's own classes also the corrected bound.
        features: what integer labels stand for; a dataset brings its own.
        batch_size: rows per forward.
        seed: of the sample and of the intervals.

    Returns:
        A `Selection`, best first. A model that cannot be read is an entry of `failed`, and stops no other.

    Raises:
        DataError: rows without labels, fewer than two labels, fewer than two rows of a label.
        UsageError: no models, counts below 0.

    Example:

        hr.select(["out/minilm", "out/smollm2"], rows).show()

    Sources: 2202.10629; each measure's own paper in `transferability`.
    """
    if not models:
        raise UsageError("select(models)", f"{models!r}", "at least one model")
    for name, value, least in (("count", count, 3), ("gradients", gradients, 0)):
        if value < least:
            raise UsageError(f"select({name})", f"{value}", f"at least {least}")
    if isinstance(models, str):
        raise UsageError("select(models)", f"{models!r}", "a list", f"[{models!r}]")
    features = features if features is not None else getattr(rows, "features", None)
    rows = as_rows(rows, "text")
    y, names = _labelled(rows, labels, features)
    some = stratified(y, count, seed)
    # From here on labels are names: no collator has to be told what integers stand for.
    rows = [{**{k: v for k, v in rows[i].items() if k not in LABEL_COLUMNS}, "label": names[y[i]]} for i in some]
    y = y[some]
    _check_counts(y, names)
    entries: list[Entry] = []
    failed: dict[str, str] = {}
    source = None if source_rows is None else as_rows(source_rows, "text")
    look = _Look(rows, y, names, template, gradients, list(random_seeds), source, batch_size, seed)
    for name in models:
        try:
            base, processor = models[name] if isinstance(models, Mapping) else load_base(BaseRecipe(name))
            made, aside = look.at(name, base, processor)
            entries += made
            failed |= aside
        except (ReprogramError, NotImplementedError) as error:
            failed[name] = " ".join(str(error).split())
    counted, told, aside = simple(rows, y, columns(parse(template or "{text}")))
    counts = np.bincount(y)
    entries.sort(key=lambda e: -e.measures["accuracy"])
    return Selection(
        entries, failed, names, len(y), float(counts.max() / len(y)), told, len(look.seeds), counted, aside
    )


def _check_counts(y: np.ndarray, names: list[str]) -> None:
    """Refuse labels of no row, and rows of which each is the only one of its label: left out, none is left to learn
    the label from."""
    counts, fix = np.bincount(y, minlength=len(names)), "more rows, a larger count, or fewer labels"
    none = [name for name, held in zip(names, counts, strict=True) if held == 0]
    if none:
        shown = ", ".join(repr(name) for name in none[:5]) + (f" and {len(none) - 5} more" if len(none) > 5 else "")
        raise DataError("select(rows)", f"no row of {shown} among {len(y)} rows", "rows of every label", fix)
    if counts.max() < 2:
        what, expected = f"one row of each of {len(names)} labels", "two rows: each row is told by a map of the others"
        raise DataError("select(rows)", what, expected, fix)


def _labelled(rows: list[dict[str, Any]], labels: Sequence[str] | None, features: Any) -> tuple[np.ndarray, list[str]]:
    """((rows,) ids, names of all labels)."""
    given = [label_of(row) for row in rows]
    empty = next((i for i, value in enumerate(given) if value is None), None)
    if empty is not None or not rows:
        raise DataError(f"select(rows)[{empty or 0}]['label']", "missing", "a label on each row")
    known = label_names(features)
    if labels is None:
        labels = known or sorted({str(value) for value in given if not isinstance(value, int)})
    ints = sorted({value for value in given if isinstance(value, int)})
    if ints and (len(labels) <= ints[-1] or ints[0] < 0):
        what = f"the labels are integers from {ints[0]} to {ints[-1]}, and {len(labels)} names are given"
        expected = f"a name for each from 0 to {ints[-1]}"
        raise DataError("select(rows)", what, expected, "features=[...] names them in the order of their ids")
    if len(labels) < 2:
        raise DataError("select(rows)", f"all labels are {list(labels)!r}", "at least two labels")
    if len(set(labels)) < len(labels):
        raise ConfigError("select(labels)", f"{list(labels)!r}", "each label once")
    ids = [label_id(value, labels, known, f"select(rows)[{i}]['label']") for i, value in enumerate(given)]
    return np.array(ids), list(labels)


@dataclass(frozen=True)
class _Look:
    """How a candidate is looked at: the arguments of `select`, the rows drawn, their labels by name."""

    rows: list[dict[str, Any]]
    y: np.ndarray
    names: list[str]
    template: str | None
    gradients: int
    seeds: list[int]
    source: list[dict[str, Any]] | None
    batch_size: int
    seed: int

    def at(self, name: str, base: Any, processor: Any) -> tuple[list[Entry], dict[str, str]]:
        """(One entry for each of its readings; why those without one have none.)"""
        found, read, distances = self._outputs(base, processor)
        spread = {key: float(values.std(0).mean()) for key, values in read.values.items()}
        twins = [self._outputs(random_source(base, s), processor, spread)[0] for s in self.seeds]
        numbers = sum(p.numel() for p in base.parameters())
        size = sum(p.numel() * p.element_size() for p in base.parameters())
        made = []
        for key, (measures, right) in found.items():
            values = read.values[key]
            low, high = interval(right, self.seed)
            random = [twin[key][0] for twin in twins if key in twin]
            mean = {m: float(np.mean([r[m] for r in random])) for m in random[0]} if random else {}
            made.append(
                Entry(
                    model=name, reading=key, outputs=values.shape[1],
                    parameters=numbers, megabytes=size / 1e6, milliseconds=1000 * read.seconds / len(self.y),
                    artefact_bytes=4 * len(self.names) * (values.shape[1] + 1), measures=measures, low=low, high=high,
                    random=mean, distances=distances.get(key, {}),
                    remarks=remarks(values, self.y, len(self.names), scores(key)), right=right,
                )
            )  # fmt: skip
        aside = {f"{name}, {NAMES[key]}": why for key, why in read.aside.items()}
        return made, aside

    def _outputs(self, base: Any, processor: Any, spread: dict[str, float] | None = None) -> tuple[Any, Any, Any]:
        """(measures and right rows by reading, what was read, distances by reading) of a base.

        Args:
            spread: mean deviation of each reading's outputs, to which these are brought: the scale of logits says how
                sure a model is, not what it knows (M§C.6).
        """
        candidate = Candidate(base, processor, self.names, self.template)
        try:
            read = candidate.read(self.rows, self.batch_size)
            values = read.values
            if spread is not None:
                values = {k: v * (spread[k] / max(float(v.std(0).mean()), 1e-30)) for k, v in values.items()}
            found, why = {}, None
            for key, outputs in values.items():
                try:
                    found[key] = measured(outputs, self.y, len(self.names), scores(key))
                except DataError as error:  # the others may still tell the labels apart
                    why, read.aside[key] = error, " ".join(str(error).split())
            if not found:
                raise why
            pulled = self.gradients and "state" in found
            pulls = candidate.pulls(self.rows, self.y, values["state"], self.gradients) if pulled else {}
            for measures, _ in found.values():
                measures.update(pulls)
            far = {} if self.source is None or spread is not None else compared(
                self.source, candidate, {key: values[key] for key in found}, self.y, self.batch_size
            )  # fmt: skip
        finally:
            candidate.close()
        return found, read, far
