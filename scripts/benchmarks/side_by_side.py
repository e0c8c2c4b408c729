"""Run several slow functions at once, each in a process of its own, with one calm progress bar each.

    results = side_by_side({"ours": Job(teach, (0,), units=1000), "random_source": Job(teach, (1,), units=1000)})

A job's function takes `tell` before its own arguments and calls `tell(units, note)` as work gets done. Only the parent
draws, so that bars cannot garble each other; where nobody watches (a log, a pipe) it prints a line now and then.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from tqdm import tqdm


Tell = Callable[[float, str], object]


@dataclass(frozen=True)
class Job:
    """One function to run.

    Args:
        work: a function of a module, called as `work(tell, *arguments)`; its result must pickle.
        arguments: for it; they must pickle.
        units: how much work it is, in the units of its own `tell`.
    """

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    units: float


class JobFailed(RuntimeError):
    """A job raised or died; the message holds its traceback."""


class Progress:
    """A bar for people; for a log a line at every fifth of the work.

    Args:
        name: stands before the bar.
        units: the whole work.
        position: line of the bar, counted from the first one shown at the same time.
    """

    def __init__(self, name: str, units: float, position: int = 0) -> None:
        self.name, self.units, self.done, self.start, self.told = name, units, 0.0, time.monotonic(), 0
        shape = "  {desc:<14}{percentage:3.0f}% |{bar:24}| {elapsed}<{remaining}{postfix}"
        watched = sys.stderr.isatty()
        self.bar = tqdm(desc=name, total=units, position=position, bar_format=shape) if watched else None

    def tell(self, units: float, note: str = "") -> None:
        """`units` more are done; `note` says what is going on."""
        self.done = min(self.done + units, self.units)
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(self.done - self.bar.n)
            return
        fifth = int(5 * self.done / self.units + 1e-9)
        if fifth > self.told:
            self.told = fifth
            print(f"  {self.name:<14}{20 * fifth:3}%  {time.monotonic() - self.start:4.0f} s  {note}", flush=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


def side_by_side(jobs: Mapping[str, Job]) -> dict[str, Any]:
    """Results of all jobs by name.

    Raises:
        JobFailed: one of them raised or died; the others are stopped at once.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's locks
    processes, names, results = [], {}, {}
    bars = {name: Progress(name, job.units, i) for i, (name, job) in enumerate(jobs.items())}
    try:
        for name, job in jobs.items():
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(theirs, job.work, job.arguments), name=name, daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is seen as the end of the pipe
            processes.append(process)
            names[ours] = name
        while names:
            for pipe in wait(list(names)):
                _hear(pipe, names, bars, results)
        for process in processes:
            process.join()
    finally:  # whatever went wrong, nobody is left behind
        for process in processes:
            process.terminate()
            process.join()
        for bar in bars.values():
            bar.close()
    return {name: results[name] for name in jobs}


def _hear(pipe: Connection, names: dict[Connection, str], bars: dict[str, Progress], results: dict[str, Any]) -> None:
    """One message of a job."""
    name = names[pipe]
    try:
        kind, *content = pipe.recv()
    except EOFError as error:
        raise JobFailed(f"{name}: its process died without a word (out of memory?)") from error
    if kind == "told":
        bars[name].tell(*content)
    elif kind == "failed":
        raise JobFailed(f"{name} failed:\n{content[0]}")
    else:
        results[name] = pickle.loads(content[0])
        del names[pipe]


def _run(pipe: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a job's process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    try:
        result = work(lambda units, note="": pipe.send(("told", units, note)), *arguments)
        # Pickled by hand: a pipe would send a tensor as a handle on memory that ends with this process.
        pipe.send(("result", pickle.dumps(result)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
