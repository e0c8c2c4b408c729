"""The way to a model of which only answers come back: every question is asked once, counted, and kept.

A query is one input that is sent. What was asked before, in this run or in one that was killed, comes from the cache
and costs nothing; so a search that is started again with the same seed goes the same way and asks no query twice. An
endpoint's answers are kept one by one as they come, those of a callable when its call ends.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BaseModelError, BudgetError, UsageError, first_line
from ..passes import at_least_one
from ._http import cut
from .endpoint import Endpoint, Keep


Ask = Callable[[Sequence[Any]], Any]  # texts, or waves (samples,) -> (inputs, K) scores, or (inputs,) class numbers
FORMAT, FOREVER = "1", float("inf")


class Channel:
    """Asks, and remembers.

    Args:
        ask: gives scores of K classes for some inputs, or the number of the class that comes first.
        source: what is asked, by name and version: answers of another source are not believed, nor those of an
            endpoint that was asked for other words, for another model or for more or fewer likeliest tokens.
        outputs: K.
        cache: a file (SQLite) that keeps the answers; None keeps them in memory.
        most: queries that may be sent; None sets no limit.
        seconds: after which nothing more is sent, and an `Endpoint` neither tries nor waits; None sets no limit.
        together: inputs in one call of `ask`. Where a call of a callable fails, its answers are lost; an `Endpoint`
            loses none.
        rebuild: forget what the file holds.

    Attributes:
        wanted: answers that were needed; `untold`: of their scores, those that an endpoint did not tell; `sent`:
            queries that were sent; `last`: the input that was asked last.

    Raises:
        UsageError: a file of another source, of something else, or one that cannot be written; `together` below 1.
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
        at_least_one("together", together)
        self.ask, self.source, self.outputs, self.together = ask, source, outputs, together
        self.most, self.end = most, time.monotonic() + (FOREVER if seconds is None else seconds)
        self.wanted = self.sent = self.untold = 0
        self.known: dict[str, np.ndarray] = {}
        self.floored: dict[str, int] = {}  # scores of an answer that were not told, where there are any
        self._lock = threading.Lock()
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
            self._fetch([key for key, _ in part], [given for _, given in part])
        self.untold += sum(self.floored.get(key, 0) for key in keys)
        # It is refused again where all comes from the cache.
        if isinstance(self.ask, Endpoint) and all(self.floored.get(key) == self.outputs for key in keys):
            self.ask.tells_nothing(len(set(keys)))
        return np.stack([self.known[key] for key in keys])

    def _fetch(self, keys: list[str], inputs: list[Any]) -> None:
        """Ask for inputs, and keep the answers."""
        if isinstance(self.ask, Endpoint):
            self._asked(inputs, lambda i, row, floored: self._keep([(keys[i], np.float32(row), floored)]))
        else:
            self._keep([(key, row, 0) for key, row in zip(keys, self._asked(inputs), strict=True)])

    def _keep(self, answers: list[tuple[str, np.ndarray, int]]) -> None:
        with self._lock:  # an endpoint's come from several threads
            for key, row, floored in answers:
                self.known[key] = row
                if floored:
                    self.floored[key] = floored
            # What was not told comes first: a kill in between leaves no answer that passes for a whole one.
            self._write("insert or replace into floored values (?, ?)", [(k, n) for k, _, n in answers if n])
            self._write("insert or replace into answers values (?, ?)", [(k, row.tobytes()) for k, row, _ in answers])

    def _afford(self, count: int) -> None:
        if count and self.most is not None and self.sent + count > self.most:
            what = f"{self.sent} queries sent, {count} more are needed for this batch"
            raise BudgetError("budget", what, f"at most {self.most}", f"a larger budget; {self._kept}")
        if count and time.monotonic() > self.end:
            what = f"the time is over after {self.sent} queries"
            raise BudgetError("budget", what, "an answer within its seconds", f"more seconds; {self._kept}")

    @property
    def _kept(self) -> str:
        """What becomes of the answers so far."""
        if self.path is None:
            return "cache=FILE keeps answers for the next run"
        return f"the {len(self.known)} answers in {self.path} are kept, and the same run asks for the others alone"

    def _asked(self, inputs: list[Any], keep: Keep | None = None) -> np.ndarray:
        """One call of `ask`, its answer looked through; an endpoint gives each to `keep` before."""
        ask, before = self.ask, getattr(self.ask, "sent", 0)
        try:
            found = ask(inputs, self.end, keep) if isinstance(ask, Endpoint) else ask(inputs)
        except (BaseModelError, BudgetError) as error:
            fix = f"{error.fix}; {self._kept}" if error.fix else self._kept
            raise type(error)(error.where, error.what, error.expected, fix) from error
        finally:
            self.sent += ask.sent - before if isinstance(ask, Endpoint) else len(inputs)
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
                file.executescript(
                    "drop table if exists facts; drop table if exists answers; drop table if exists floored;"
                )
            file.execute("create table if not exists facts (name text primary key, value text)")
            file.execute("create table if not exists answers (key text primary key, scores blob)")
            file.execute("create table if not exists floored (key text primary key, cells integer)")
            mine = {"format": FORMAT, "source": self.source, "outputs": str(self.outputs)}
            mine |= getattr(self.ask, "identity", {})
            theirs = dict(file.execute("select name, value from facts"))
            wrong = next((name for name in mine if theirs and theirs.get(name) != mine[name]), None)
            if wrong is not None:
                raise self._refused(f"holds answers of another {wrong}: {theirs.get(wrong)!r} is not {mine[wrong]!r}")
            file.executemany("insert or ignore into facts values (?, ?)", mine.items())
            file.commit()
            self.apart = float(theirs["noise"]) if "noise" in theirs else None
            self.twice = theirs.get("twice", self.twice)
            for key, raw in file.execute("select key, scores from answers"):
                self.known[key] = np.frombuffer(raw, dtype=np.float32)
            self.floored = dict(file.execute("select key, cells from floored"))
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
