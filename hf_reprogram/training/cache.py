"""Training of a mapping alone: the frozen model runs once, then Trainer sees what the mapping reads of each row."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers.trainer_utils import has_length

from ..data.rows import as_rows
from ..errors import UsageError
from ..features import IN_MEMORY, FrozenRows, row_keys, uncacheable
from ..serve import freeze


logger = logging.getLogger(__name__)


class FrozenCollator:
    """Frozen rows to a batch of readouts; any other rows as before.

    Args:
        collator: for rows that are not frozen: `trainer.predict(rows)` goes on working.
    """

    one_length = False  # frozen rows know their lengths

    def __init__(self, collator: Any) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        if not all(isinstance(row, Mapping) and "readout" in row for row in rows):
            return self.collator(rows)
        batch = {"readout": torch.stack([row["readout"] for row in rows])}
        return batch | {"labels": torch.stack([row["label"] for row in rows])} if "label" in rows[0] else batch


def frozen(model: Any, collator: Any, rows: Any, cache: Any = None, rebuild: bool = False) -> FrozenRows | None:
    """Rows with the body run once, where no program trains and every row is the same every time; else None.

    Rows that are drawn anew at each look (random crops, a dataset with a transform) stay live, and so do those of
    several processes.

    Args:
        rows: dict rows, a dataset, or rows that are frozen already.
        cache: a folder for the features; None keeps them in memory, up to `IN_MEMORY` bytes.

    Raises:
        UsageError: a folder, and features that cannot be kept.
    """
    if isinstance(rows, FrozenRows):
        rows.check(model, model.active_mapping().labels)
        return rows
    reading, fitted = model.active_mapping().reading(), model.active_mapping().fit_reading()
    changing = uncacheable(model, reading)
    if reading != fitted or reading.kind == "sequence":
        changing = f"training reads {reading.kind}, where frozen rows hold {fitted.kind} in one vector each"
    if changing and cache is None:
        return None
    reason = changing or _unsteady(model, collator, rows)
    if reason is None:
        made = collator.lay_out(as_rows(rows, model.text_column()))
        reason = _too_large(model, collator, made) if cache is None else None
    if reason is not None and cache is not None:
        raise UsageError("cache", reason, "rows and a program that are the same at every step", "leave cache out")
    if reason is not None:
        logger.warning("The frozen model runs for every batch, although only the mapping trains: %s.", reason)
        return None
    return freeze(model, collator, made, cache, rebuild)


def _unsteady(model: Any, collator: Any, rows: Any) -> str | None:
    """Why the rows cannot be computed beforehand."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "there are several processes"
    if not has_length(rows):
        return "the dataset streams"
    column = model.text_column()
    # A list is what it is. A dataset may draw its rows anew: two looks show it.
    looks = [collator.lay_out(as_rows(rows, column)) for _ in range(1 if isinstance(rows, list) else 2)]
    if any(row.label is None for row in looks[0]):
        return "rows without labels"
    if any(row.adapter not in (None, model.active_name()) for row in looks[0]):
        return "rows name other programs"
    return None if row_keys(looks[0]) == row_keys(looks[-1]) else "the dataset gives other rows at every look"


def _too_large(model: Any, collator: Any, made: Sequence[Any]) -> str | None:
    width = freeze(model, collator, made[:1]).values[0].numel()
    if 4 * width * len(made) > IN_MEMORY:
        return (
            f"{len(made)} rows of {width} numbers fill the memory; make_trainer(cache=folder) keeps them on the disk"
        )
    return None
