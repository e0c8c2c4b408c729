"""Jobs in processes of their own: results, progress, and what happens when one of them fails or dies."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from benchmarks.side_by_side import Job, JobFailed, Progress, Tell, side_by_side


def doubled(tell: Tell, values: torch.Tensor) -> torch.Tensor:
    for _ in range(4):
        tell(1, "at it")
    return 2 * values


def raises(tell: Tell) -> None:
    raise ValueError("the reason")


def dies(tell: Tell) -> None:
    os._exit(9)


def lingers(tell: Tell, proof: str) -> None:
    Path(proof).write_text(str(os.getpid()))
    time.sleep(600)


def test_results_come_back_by_name_with_progress_of_each(capfd: pytest.CaptureFixture):
    found = side_by_side({name: Job(doubled, (torch.tensor([v]),), units=4) for name, v in (("a", 1), ("b", 2))})
    assert {name: value.tolist() for name, value in found.items()} == {"a": [2], "b": [4]}
    printed, errors = capfd.readouterr()
    lines = [line.split()[:2] for line in printed.splitlines()]
    for name in ("a", "b"):
        assert [percent for job, percent in lines if job == name] == ["20%", "40%", "60%", "100%"]
    assert errors == ""


@pytest.mark.parametrize(
    ("work", "message"), [(raises, "bad failed:(?s:.*)ValueError: the reason"), (dies, "bad: its process died")]
)
def test_one_failure_stops_the_others(work: object, message: str, tmp_path: Path):
    start = time.monotonic()
    with pytest.raises(JobFailed, match=message):
        side_by_side({"good": Job(lingers, (str(tmp_path / "pid"),), 1), "bad": Job(work, (), 1)})
    assert time.monotonic() - start < 300
    told = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
    if told:  # it may have been stopped before it began, or between making the file and writing it
        with pytest.raises(ProcessLookupError):
            os.kill(int(told), 0)


def test_progress_never_passes_the_whole(capsys: pytest.CaptureFixture):
    progress = Progress("short", units=2)
    for _ in range(5):
        progress.tell(1)
    progress.close()
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["40%", "100%"]
