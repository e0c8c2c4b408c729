"""The way to a model of which only answers come back: every question is asked once, counted, and kept.

A query is one input that is sent. What was asked before, in this run or in one that was killed, comes from the cache
and costs nothing; so a search that is started again with the same seed goes the same way and asks no query twice.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BaseModelError, BudgetError, UsageError, first_line
from .endpoint import Endpoint, cut


Ask = Callable[[Sequence[Any]], Any]  # texts, or waves (samples,) -> (inputs, K) scores, or (inputs,) class numbers
FORMAT, FOREVER = "1", float("inf")


class Channel:
    """Asks, and remembers.

    Args:
        ask: gives scores of K classes for some inputs, or the number of the class that comes first.
        source: what is asked, by name and version: answers of another source are not believed.
        outputs: K.
        cache: a file (SQLite) that keeps the answers; None keeps them in memory.
        most: queries that may be sent; None sets no limit.
        seconds: after which nothing more is sent, and an `Endpoint` neither tries nor waits; None sets no limit.
        together: inputs in one call of `ask`; answers are kept after each call.
        rebuild: forget what the file holds.

    Attributes:
        wanted: answers that were needed; `sent`: queries that were sent; `last`: the input that was asked last.

    Raises:
        UsageError: a file of another source, of something else, or one that cannot be written.
    """

    def __init__(
        self,
        ask: Ask,
        source: str,
        outputs: int,
        cache: str | Path | None = None,
        most: int | None = None,
        seconds: float | None = None,
        together: int = 64,
        rebuild: bool = False,
    ) -> None:
        self.ask, self.source, self.outputs, self.together = ask, source, outputs, together
        self.most, self.end = most, time.monotonic() + (FOREVER if seconds is None else seconds)
        self.wanted = self.sent = 0
        self.known: dict[str, np.ndarray] = {}
        self.apart: float | None = None
        self.twice = "one question"
        self.last: Any = None
        self.path = None if cache is None else Path(cache)
        self.file = None if cache is None else self._open(rebuild)

    def __call__(self, inputs: Sequence[Any]) -> np.ndarray:
        """(inputs, K) float32 scores.

        Raises:
            BudgetError: before anything is sent, where not all that is unknown may be sent.
            BaseModelError: an answer that is none.
        """
        keys = [self._key(given) for given in inputs]
        self.last = inputs[-1]
        self.wanted += len(keys)
        new = {key: given for key, given in zip(keys, inputs, strict=True) if key not in self.known}
        self._afford(len(new))
        listed = list(new.items())
        for start in range(0, len(listed), self.together):
            part = listed[start : start + self.together]
            self._afford(len(part))
            scores = self._asked([given for _, given in part])
            for (key, _), row in zip(part, scores, strict=True):
                self.known[key] = row
            answers = [(key, row.tobytes()) for (key, _), row in zip(part, scores, strict=True)]
            self._write("insert or replace into answers values (?, ?)", answers)
        return np.stack([self.known[key] for key in keys])

    def _afford(self, count: int) -> None:
        if count and self.most is not None and self.sent + count > self.most:
            what = f"{self.sent} queries sent, {count} more are needed for this batch"
            raise BudgetError("budget", what, f"at most {self.most}", f"a larger budget; {self._kept}")
        if count and time.monotonic() > self.end:
            what = f"the time is over after {self.sent} queries"
            raise BudgetError("budget", what, "an answer within its seconds", f"more seconds; {self._kept}")

    @property
    def _kept(self) -> str:
        """What becomes of the answers so far; of a batch that failed none are here."""
        if self.path is None:
            return "cache=FILE keeps answers for the next run"
        return f"the {len(self.known)} answers in {self.path} are kept, and the same run asks for the others alone"

    def _asked(self, inputs: list[Any]) -> np.ndarray:
        """One call of `ask`, its answer looked through."""
        self.sent += len(inputs)
        try:
            found = self.ask(inputs, self.end) if isinstance(self.ask, Endpoint) else self.ask(inputs)
        except (BaseModelError, BudgetError) as error:
            fix = f"{error.fix}; {self._kept}" if error.fix else self._kept
            raise type(error)(error.where, error.what, error.expected, fix) from error
        expected = f"({len(inputs)}, {self.outputs}) finite scores, or class numbers below {self.outputs}"
        asked = f"for {len(inputs)} inputs and {self.outputs} classes"
        try:
            given = np.asarray(found)
        except ValueError as error:
            raise BaseModelError("ask(inputs)", f"gave rows of different lengths {asked}", expected) from error
        numbers = given.shape == (len(inputs),) and given.dtype.kind in "iu"
        if numbers and 0 <= given.min() <= given.max() < self.outputs:
            return np.eye(self.outputs, dtype=np.float32)[given]
        if given.shape != (len(inputs), self.outputs) or given.dtype.kind not in "fiub":
            raise BaseModelError("ask(inputs)", f"gave {given.dtype} of shape {given.shape} {asked}", expected)
        if not np.isfinite(given).all():
            raise BaseModelError("ask(inputs)", "gave NaN or infinity", expected)
        return given.astype(np.float32)

    def _key(self, given: Any) -> str:
        raw = given.encode() if isinstance(given, str) else np.ascontiguousarray(given, dtype=np.float32).tobytes()
        return hashlib.sha256(f"{type(given).__name__}:{len(raw)}:".encode() + raw).hexdigest()

    def noise(self, given: Any) -> float:
        """How far two answers to one question lie apart, over the largest score; asked once for each cache.

        The question is named in `twice`.

        Raises:
            BudgetError: where no query may be sent.
        """
        if self.apart is None:
            known = self.known.get(self._key(given))
            known = self([given])[0] if known is None else known
            self._afford(1)
            again = self._asked([given])[0]
            self.apart = float(np.abs(again - known).max() / max(float(np.abs(known).max()), 1e-9))
            self.twice = _named(given)
            facts = [("noise", str(self.apart)), ("twice", self.twice)]
            self._write("insert or replace into facts values (?, ?)", facts)
        return self.apart

    # The file

    def _open(self, rebuild: bool) -> sqlite3.Connection:
        try:
            file = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            if rebuild:
                file.executescript("drop table if exists facts; drop table if exists answers;")
            file.execute("create table if not exists facts (name text primary key, value text)")
            file.execute("create table if not exists answers (key text primary key, scores blob)")
            mine = {"format": FORMAT, "source": self.source, "outputs": str(self.outputs)}
            theirs = dict(file.execute("select name, value from facts"))
            wrong = next((name for name, value in theirs.items() if name in mine and mine[name] != value), None)
            if wrong is not None:
                raise self._refused(f"holds answers of another {wrong}: {theirs[wrong]!r} is not {mine[wrong]!r}")
            file.executemany("insert or ignore into facts values (?, ?)", mine.items())
            file.commit()
            self.apart = float(theirs["noise"]) if "noise" in theirs else None
            self.twice = theirs.get("twice", self.twice)
            for key, raw in file.execute("select key, scores from answers"):
                self.known[key] = np.frombuffer(raw, dtype=np.float32)
            return file
        except sqlite3.Error as error:
            raise self._refused(f"could not be used ({first_line(error)})") from error

    def _write(self, command: str, rows: list[tuple[str, Any]]) -> None:
        if self.file is None:
            return
        try:
            with self.file:
                self.file.executemany(command, rows)
        except sqlite3.Error as error:  # a full disk
            raise self._refused(f"could not be written ({first_line(error)}); its answers so far are whole") from error

    def _refused(self, what: str) -> UsageError:
        fix = "another file, or rebuild=True to forget what it holds"
        return UsageError(f"cache {str(self.path)!r}", what, None, fix)


def _named(given: Any) -> str:
    """An input, as a message names it."""
    if isinstance(given, str):
        return cut(repr(given))
    return f"a wave of {len(given)} samples"
