"""Which mapping suits: every one that can be estimated, judged by cross-validation on what one pass read."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Reading, Readout
from ..config import ReprogramConfig
from ..errors import DataError, ReprogramError, UsageError, first_line
from ..features import IN_MEMORY
from ..mappings.base import Mapping, MappingOptions
from ..model import get_reprogram_model
from ..registry import chosen, method_class, names
from ..serve import labels_of, laid_out, readouts


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One mapping.

    Args:
        options: of the mapping; put them into a config.
        accuracy: share of rows told right, each by a map of other folds.
        error: standard error over rows.
        numbers: that the map holds.
    """

    options: MappingOptions
    accuracy: float
    error: float
    numbers: int

    @property
    def name(self) -> str:
        """Type and the options that were chosen."""
        mine = [f for f in fields(self.options) if chosen(self.options, f) and f.name not in ("type", "words")]
        shown = ", ".join(f"{f.name} {getattr(self.options, f.name)}" for f in mine)
        return f"{self.options.type} ({shown})" if shown else self.options.type


@dataclass(frozen=True)
class Search:
    """What was tried.

    Args:
        trials: best first; of equal ones the one of fewer numbers.
        left_out: by name of a mapping, why it could not be tried here.
    """

    trials: list[Trial]
    left_out: dict[str, str]

    @property
    def best(self) -> Trial:
        """The first."""
        return self.trials[0]

    def table(self) -> list[str]:
        """A head, and a line for each that was tried, best first."""
        width = max(len(trial.name) for trial in self.trials)
        lines = [f"{'mapping':{width}}  accuracy, % +- error  numbers"]
        for trial in self.trials:
            error = f"{100 * trial.accuracy:8.1f}    +- {100 * trial.error:<5.1f}"
            lines.append(f"{trial.name:{width}}  {error}  {trial.numbers:>7,}")
        return lines

    def show(self) -> None:
        """Print what was tried, best first, and what could not be, a line for each reason."""
        print("\n".join([*self.table(), *(f"not tried: {line}" for line in by_reason(self.left_out))]))


def search_mappings(
    model: Any,
    config: ReprogramConfig,
    rows: Any,
    processing_class: Any = None,
    candidates: Sequence[MappingOptions] | None = None,
    folds: int = 5,
    features: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Search:
    """Rank mappings for labelled rows under the config's programs as they start. The base runs once over the rows.

    Args:
        model: the frozen base, given back as it was.
        config: whose programs stand before the base; its own mapping is one of those that are tried.
        rows: labelled dict rows to learn from, a dataset; never those that the result is judged by.
        processing_class: of the base.
        candidates: options of mappings; None tries what each mapping names in its `tries`.
        folds: of cross-validation, stratified.
        features: what integer labels stand for; a dataset brings its own.
        batch_size: rows per forward.
        seed: of the programs' start and of the folds.

    Raises:
        UsageError: no mapping that can be tried, a problem that has not one label for each row, fewer than two folds.
        DataError: rows without labels, a label on fewer than two rows.

    Example:

        found = hr.search_mappings(base, config, train, tokenizer)
        config.mapping = found.best.options
    """
    if config.problem_type != "single_label_classification":
        what = f"a problem of type {config.problem_type}"
        raise UsageError("search_mappings(config)", what, "one label for each row: folds are stratified")
    if not isinstance(folds, int) or folds < 2:
        raise UsageError("search_mappings(folds)", f"{folds!r}", "a whole number from 2")
    odd = next((each for each in candidates or () if not isinstance(each, MappingOptions)), None)
    if odd is not None:
        expected = "options of mappings, as hr.LinearConfig(on='classes')"
        raise UsageError("search_mappings(candidates)", f"{odd!r}", expected)
    wrapped = get_reprogram_model(model, config, processing_class=processing_class, seed=seed)
    try:
        given = [config.mapping, *(tries() if candidates is None else candidates)]
        collator, made = laid_out(wrapped, rows, features)
        able, left_out = _able(wrapped, config, given, len(made), seed)
        if not able:
            raise UsageError(
                "search_mappings", "no mapping can be tried", "one that is estimated", "; ".join(by_reason(left_out))
            )
        values, y = _read(wrapped, collator, made, {r for m in able.values() for r in _readings(m)}, batch_size)
        trials = []
        parts = _folds(y, folds, seed, next(iter(able.values())).labels)
        for name, mapping in able.items():
            unclear = [values[reading].isnan().flatten(1).any(1) for reading in _readings(mapping)]
            odd = int((unclear[0] | unclear[1]).sum())
            if odd:  # said once for all, and not in the words of each solver
                left_out[name] = f"the base gives NaN for {odd} of {len(y)} rows"
                continue
            try:
                right = _judged(mapping, values, y, parts)
            except (ReprogramError, ValueError) as error:  # scikit-learn's and scipy's own
                left_out[name] = first_line(error)
                continue
            spread = float(right.std(ddof=1) / len(right) ** 0.5)
            numbers = sum(b.numel() for b in mapping.buffers() if b.is_floating_point())
            trials.append(Trial(mapping.options, float(right.mean()), spread, numbers))
    finally:
        wrapped.unload()
    if not trials:
        raise UsageError(
            "search_mappings", "no mapping could be fitted", "one that can", "; ".join(by_reason(left_out))
        )
    trials.sort(key=lambda t: (-t.accuracy, t.numbers))
    return Search(trials, left_out)


def tries() -> list[MappingOptions]:
    """Options that mappings name as worth trying."""
    made = []
    for name in names("mapping"):
        cls = method_class("mapping", name)
        made += [cls.Options(**options) for options in cls.tries]
    return made


def _able(
    wrapped: Any, config: ReprogramConfig, given: Sequence[MappingOptions], rows: int, seed: int
) -> tuple[dict[str, Mapping], dict[str, str]]:
    """(mappings that this base, template and these labels can have, by name; why others cannot)."""
    able: dict[str, Mapping] = {}
    left_out: dict[str, str] = {}
    for options in given:
        trial = Trial(options, 0.0, 0.0, 0)
        if trial.name in able or trial.name in left_out:
            continue
        part = ReprogramConfig.from_dict({**config.to_dict(), "mapping": options.to_dict()})
        try:
            wrapped.add_adapter("tried", part, seed=seed)
        except ReprogramError as error:
            left_out[trial.name] = _reason(error, options.type)
            continue
        wrapped.set_adapter("tried")
        mapping = wrapped.active_mapping()
        if mapping.needs_fit and mapping.calibration_rows() is not None:
            wrapped.fit_mapping()  # from texts of its own: the same in every fold
        wrapped.set_adapter("default")
        wrapped.delete_adapter("tried")
        size = wrapped.backbone.head.size if Reading("rows") in _readings(mapping) else 0
        if any(True for _ in mapping.parameters()):
            left_out[trial.name] = "it trains by gradients"
        elif 4 * size * rows > IN_MEMORY:
            left_out[trial.name] = f"{rows} rows of {size} numbers fill the memory"
        elif mapping.options.continuations() is not None:
            left_out[trial.name] = "its words have several tokens: each is a row of its own"
        else:
            able[trial.name] = mapping
    return able, left_out


def _readings(mapping: Mapping) -> tuple[Reading, Reading]:
    """(what its fit reads, what it then reads of a row) of a mapping that is not fitted yet, where it will be."""
    return (mapping.fit_reading() if mapping.fits_rows else mapping.reading()), mapping.reading()


def _read(
    wrapped: Any, collator: Any, made: Sequence[Any], readings: set[Reading], batch_size: int
) -> tuple[dict[Reading, Tensor], Tensor]:
    """(what each reading gives, (rows, K) float32; label ids (rows,))."""
    y = labels_of(made)
    if y is None:
        raise DataError("search_mappings(rows)", "rows without labels", "a label on each row")
    listed = list(readings)
    return dict(zip(listed, readouts(wrapped, collator, made, listed, batch_size), strict=True)), y


def _folds(y: Tensor, folds: int, seed: int, labels: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(y.numpy(), minlength=len(labels))
    least = int(counts.min())
    if least < 2:
        what = f"{least or 'no'} row of {labels[counts.argmin()]!r}"
        raise DataError("search_mappings(rows)", what, "at least two rows of every label")
    split = StratifiedKFold(min(folds, least), shuffle=True, random_state=seed)
    return list(split.split(np.zeros(len(y)), y.numpy()))


@torch.no_grad()
def _judged(
    mapping: Mapping, values: dict[Reading, Tensor], y: Tensor, parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """(rows,) 1.0 where a row is told right by the map of the other folds."""
    learnt, asked = _readings(mapping)
    right = np.zeros(len(y))
    for rest, part in parts:
        # Anew, as one that goes on from earlier counts knows the rows it is judged by; and where what was read is.
        fresh = copy.deepcopy(mapping).cpu()
        if mapping.fits_rows:
            fresh.fit(values[learnt][rest], y[rest])
        said = fresh(Readout(values[asked][part], kind=asked.kind)).argmax(1)
        right[part] = (said == y[part]).double().numpy()
    return right


def _reason(error: ReprogramError, name: str) -> str:
    """Why a mapping cannot be had, in words that are the same for each that shares the reason, and without the fix:
    the others are tried anyway."""
    what = " ".join((error.what or error.where).replace(repr(name), "it").replace(f"the {name} ", "it ").split())
    if not error.what or error.where == "ReprogramConfig.mapping":
        return what
    return f"{error.where}: {what}" + (f". Expected {error.expected}" if error.expected else "")


def by_reason(left_out: dict[str, str]) -> list[str]:
    """A line for each reason, with all that it holds for.

    Example:

        >>> by_reason({"a": "no classes", "b": "no words", "c": "no classes"})
        ['a, c: no classes', 'b: no words']
    """
    held: dict[str, list[str]] = {}
    for name, why in left_out.items():
        held.setdefault(why, []).append(name)
    return [f"{', '.join(named)}: {why}" for why, named in held.items()]
