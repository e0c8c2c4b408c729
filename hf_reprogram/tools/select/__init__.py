"""Which frozen model to reprogram for a task: ranked from a sample of labelled rows, before anything is trained."""

from __future__ import annotations

from .choose import select
from .report import Entry, Selection


__all__ = ["Entry", "Selection", "select"]
