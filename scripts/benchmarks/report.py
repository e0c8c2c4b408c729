"""What every benchmark leaves: results/NAME.json and NAME.md, written whole or not at all, and resumable in between.

    report = Report("speed", "What a step costs.", settings={"rounds": 7}, seeds=[0])
    report.cell("steps", measure)        # measure() -> rows; skipped where an interrupted run has them already
    report.finish()                      # writes both files, prints the table

Each finished cell is kept at once (in results/scratch/). A rerun with the same code, settings, versions and machine
goes on where the last one was stopped; anything else starts over, and so does a rerun of a finished benchmark.

Benchmarks that measure by `jobs` run their frozen models on the device that BENCHMARK_DEVICE names, the CPU without
it, and as many cells at once as `--workers` says.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
SCRATCH = RESULTS / "scratch"  # git ignores it: interrupted runs, and runs that are no evidence (--quick)
DEVICE = os.environ.get("BENCHMARK_DEVICE", "cpu")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Row:
    """One number.

    Args:
        task: what was done, on which data.
        method: `ours`, `lora`, ... (DESIGN §7), any of them as `METHOD:VARIANT`.
        metric: name of the number.
        value: the number; NaN and infinity are written as null.
        low, high: its interval; `note` says which.
        n: how many measurements, rows or seeds stand behind it.
        note: conditions, and for a number with a bar whether it was met.
    """

    task: str
    method: str
    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    note: str = ""


class Report:
    """Rows of one benchmark.

    Args:
        name: of the result files.
        about: a sentence or two for the top of the Markdown file.
        settings: everything that the numbers depend on, as plain JSON.
        seeds: all seeds used.
        folder: where the results go; SCRATCH for runs that are no evidence.
        fresh: forget an interrupted run.
        command: as it can be repeated; None takes it from `sys.argv`.
    """

    def __init__(
        self,
        name: str,
        about: str,
        settings: dict[str, Any],
        seeds: Sequence[int],
        folder: Path = RESULTS,
        fresh: bool = False,
        command: str | None = None,
    ) -> None:
        self.name, self.about, self.folder = name, about, Path(folder)
        self.command = command or _command()
        # Through JSON once, so that it compares equal to what an earlier run has written.
        self.identity = json.loads(
            json.dumps(
                {
                    "commit": commit(),
                    "source": source_digest(),
                    "versions": versions(),
                    "machine": machine(),
                    "settings": settings,
                    "seeds": list(seeds),
                }
            )
        )
        self.partial = (SCRATCH if self.folder == RESULTS else self.folder) / f"{name}.partial.json"
        self.published: list[Row] = []
        self.cells: dict[str, dict[str, Any]] = {} if fresh else self._interrupted()

    def _interrupted(self) -> dict[str, dict[str, Any]]:
        """Cells of an interrupted run of the same thing."""
        try:
            found = json.loads(self.partial.read_text(encoding="utf-8"))
            left, cells = dict(found["identity"]), dict(found["cells"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError):
            print(f"{self.partial} is damaged: starting over", flush=True)
            return {}
        changed = [key for key in self.identity if left.get(key) != self.identity[key]]
        if changed:
            print(f"an interrupted run of other {', '.join(changed)} is left aside: starting over", flush=True)
            return {}
        print(f"going on after {len(cells)} finished cells: {', '.join(cells)}", flush=True)
        return cells

    def cell(self, key: str, measure: Callable[[], Iterable[Row]]) -> None:
        """Measure some rows and keep them, unless an interrupted run has left them."""
        if key not in self.cells:
            self._keep(key, _measured(key, measure))

    def jobs(self, jobs: Iterable[tuple[str, Callable[[], Iterable[Row]]]], workers: int = 1) -> None:
        """Measure (key, how) one after another, or in processes of their own, to which each is sent pickled.

        Raises:
            RuntimeError: a job failed; all others are done, and kept.
        """
        jobs = list(jobs)
        if workers == 1:
            for key, measure in jobs:
                self.cell(key, measure)
            return
        failed = []
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(_measured, *job): job[0] for job in jobs if job[0] not in self.cells}
            for done in as_completed(waiting):
                if done.exception():
                    failed.append(waiting[done])
                    print(f"{waiting[done]} failed: {done.exception()!r}", flush=True)
                else:
                    self._keep(waiting[done], done.result())
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(jobs)} cells failed, first {failed[0]}; the others are kept")

    def _keep(self, key: str, found: dict[str, Any]) -> None:
        self.cells[key] = found
        write(self.partial, json.dumps({"identity": self.identity, "cells": self.cells}, allow_nan=False))

    @property
    def rows(self) -> list[Row]:
        """All rows so far, in the order of the cells."""
        return [Row(**row) for cell in self.cells.values() for row in cell["rows"]]

    def publish(self, rows: Sequence[Row]) -> None:
        """Rows that the result files hold instead of those of the cells: means over draws, say."""
        self.published = list(rows)

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        seconds = round(sum(cell["seconds"] for cell in self.cells.values()), 1)
        facts = {"name": self.name, "command": self.command, **self.identity, "seconds": seconds}
        return {**facts, "rows": [_plain(row) for row in self.published or self.rows]}

    def as_markdown(self) -> str:
        """What the Markdown file holds."""
        facts = self.as_dict()
        lines = [f"# {self.name}", "", self.about, "", f"- `{self.command}`, {facts['seconds']:g} s"]
        lines += [f"- {key}: {_inline(facts[key])}" for key in ("commit", "versions", "machine", "settings", "seeds")]
        return "\n".join([*lines, "", table(self.published or self.rows), ""])

    def finish(self) -> None:
        """Write both files, print the table, forget the interrupted run."""
        write(self.folder / f"{self.name}.json", json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n")
        write(self.folder / f"{self.name}.md", self.as_markdown())
        self.partial.unlink(missing_ok=True)
        print(
            f"\n{table(self.published or self.rows)}\n\nwritten to {self.folder / self.name}.json and .md", flush=True
        )


def write(path: Path, text: str) -> None:
    """Replace a file by one rename: a kill at any moment leaves the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)


def table(rows: Sequence[Row]) -> str:
    """Rows as an aligned Markdown table."""
    heads = ("task", "method", "metric", "value", "low", "high", "n", "note")
    cells = [heads] + [tuple(_shown(getattr(row, head)) for head in heads) for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    numeric = [head in ("value", "low", "high", "n") for head in heads]

    def line(values: Sequence[str]) -> str:
        aligned = [v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric, strict=True)]
        return "| " + " | ".join(aligned) + " |"

    rule = ["-" * (w - 1) + ":" if right else "-" * w for w, right in zip(widths, numeric, strict=True)]
    return "\n".join([line(heads), line(rule), *(line(values) for values in cells[1:])])


def bar(value: float, limit: float) -> str:
    """The note of a number that must not exceed a bar."""
    return f"bar <= {limit:g}: {'met' if value <= limit else 'NOT met'}"


def commit() -> str:
    """The checked out commit, `-dirty` where the code differs from it; `unknown` outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    code = ("hf_reprogram", "scripts", ":(exclude)scripts/benchmarks/results")
    return f"{head[:12]}{'-dirty' if _git('status', '--porcelain', '--', *code) else ''}" if head else "unknown"


def source_digest() -> str:
    """Digest of the code that a number depends on, committed or not."""
    digest = hashlib.sha256()
    for path in sorted([*ROOT.glob("hf_reprogram/**/*.py"), *ROOT.glob("scripts/**/*.py")]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number may depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """The processor, how much of it there is, and the accelerator where one is used."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    found = {"cpu": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count()}
    if DEVICE != "cpu":
        import torch

        found["accelerator"] = torch.get_device_module(DEVICE).get_device_name()
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script
    return shlex.join(["python", str(shown), *sys.argv[1:]])


def _measured(key: str, measure: Callable[[], Iterable[Row]]) -> dict[str, Any]:
    print(f"==> {key}", flush=True)
    start = time.perf_counter()
    rows = [_plain(row) for row in measure()]
    return {"seconds": round(time.perf_counter() - start, 1), "rows": rows}


def _plain(row: Row) -> dict[str, Any]:
    values = asdict(row)
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(v)}" for key, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
