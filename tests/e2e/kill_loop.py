"""Run by `test_kills.py`: children of one warmed process save two programs in turn, and are killed while they do.

    python tests/e2e/kill_loop.py FOLDER random 100     kill -9 at random moments of a loop of saves
    python tests/e2e/kill_loop.py FOLDER steps          kill -9 before every single step of one save
    python tests/e2e/kill_loop.py FOLDER full           a limit on the size of files, at every size

It prints a JSON object: how often the old, the new, or no program was found, and what else was seen.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from hf_reprogram import artefact
from hf_reprogram.errors import ArtefactError
from tests.disk_steps import Steps


Program = tuple[dict[str, Any], dict[str, torch.Tensor], str]
# Two programs that differ in every part, in sizes too.
OLD: Program = ({"labels": ["a", "b"]}, {"program.0.slots": torch.zeros(5, 32)}, "old\n")
NEW: Program = (
    {"labels": ["a", "b", "c"]},
    {"program.0.slots": torch.ones(90, 32), "mapping.bias": torch.ones(3)},
    "new\n" * 99,
)


def found(folder: Path) -> str:
    """Which of the two programs a folder holds, exactly; anything else is told in words."""
    try:
        sealed, tensors = artefact.load(folder)
    except Exception as error:  # the very thing that may not happen
        return f"{type(error).__name__}: {error}"
    for name, (config, values, _) in (("old", OLD), ("new", NEW)):
        equal = tensors.keys() == values.keys() and all(torch.equal(tensors[k], values[k]) for k in values)
        if equal and sealed == artefact.seal(config, values):
            return name
    return "a mixture"


def child(work: Callable[[], None]) -> int:
    """Start a child that does some work and leaves without a word; its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def torn(folder: Path) -> bool:
    """Whether a kill left its mark: a temporary file, or a config of other weights."""
    if any(p.name.startswith(".") for p in folder.iterdir()):
        return True
    return json.loads((folder / artefact.CONFIG_FILE).read_bytes()) != artefact.load(folder)[0]


def random_kills(folder: Path, count: int) -> Counter:
    """Kill a loop of saves `count` times at random moments of its first few saves, however slow the disk is."""

    def loop(programs: tuple[Program, ...]) -> None:
        for program in itertools.cycle(programs):
            artefact.save(folder, *program)

    seen: Counter = Counter()
    dice = random.Random(0)
    start = time.perf_counter()
    for _ in range(3):
        artefact.save(folder, *NEW)
        artefact.save(folder, *OLD)
    one_save = (time.perf_counter() - start) / 6
    for _ in range(count):
        # What is not there comes first: a disk that lets no loop get beyond one save still sees both.
        first = (OLD, NEW) if found(folder) == "new" else (NEW, OLD)
        pid = child(lambda first=first: loop(first))
        time.sleep(dice.uniform(0, 4 * one_save))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        seen["killed"] += os.WIFSIGNALED(status)
        seen[found(folder)] += 1
        seen["torn"] += torn(folder)
        for path in folder.glob(".*.tmp"):
            path.unlink()
    return seen


def kills_at_every_step(folder: Path) -> Counter:
    """Kill one save before each of its steps, from every state that an earlier kill can leave."""
    seen: Counter = Counter()

    def die(step: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def save(at: int) -> None:
        with Steps(folder, at, die).watched():
            artefact.save(folder, *NEW)

    for half_way in (False, True):
        at, status = 0, 1
        while status:
            at += 1
            shutil.rmtree(folder, ignore_errors=True)
            artefact.save(folder, *OLD)
            if half_way:  # as a kill between weights and config left it
                (folder / artefact.CONFIG_FILE).unlink()
            _, status = os.waitpid(child(lambda at=at: save(at)), 0)
            seen[found(folder)] += 1
            seen["killed"] += os.WIFSIGNALED(status)
            seen["torn"] += torn(folder) if not half_way else 0
    return seen


def full_disk(folder: Path) -> Counter:
    """Save where files may not grow beyond a size, for sizes from nothing to enough."""
    seen: Counter = Counter()
    for size in (0, 1, 100, 600, 1000, 1500, 5000, 11_000, 20_000):
        artefact.save(folder, *OLD)

        def save(size: int = size) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                artefact.save(folder, *NEW)
            except ArtefactError as error:
                assert "intact" in error.fix
                assert not any(p.name.startswith(".") for p in folder.iterdir())
                os._exit(7)

        _, status = os.waitpid(child(save), 0)
        refused = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7
        seen["refused"] += refused
        seen[found(folder)] += 1
        seen["torn"] += torn(folder)
    return seen


def main(folder: str, what: str, count: str = "0") -> None:
    torch.set_num_threads(1)
    path = Path(folder) / "program"
    seen = {
        "random": lambda: random_kills(path, int(count)),
        "steps": lambda: kills_at_every_step(path),
        "full": lambda: full_disk(path),
    }[what]()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
