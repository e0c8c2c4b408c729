"""A save that is killed leaves the old program or the new one, whole (DESIGN 4.8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


pytestmark = [pytest.mark.kills, pytest.mark.skipif(os.name != "posix", reason="kill -9 and fork")]
HELPER = Path(__file__).with_name("kill_loop.py")


def _run(folder: Path, *what: str) -> dict[str, int]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, HELPER, folder, *what], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_at_random_moments(tmp_path: Path, count: int) -> None:
    seen = _run(tmp_path, "random", str(count))
    assert seen.pop("killed") == count
    # The kills did fall into saves, and both programs were found after them; nothing else ever was.
    assert seen.pop("torn") > 0
    assert seen.keys() == {"old", "new"} and sum(seen.values()) == count, seen


def test_a_kill_before_every_single_step(tmp_path: Path) -> None:
    seen = _run(tmp_path, "steps")
    steps = 1 + 5 * 3 + 3 + 3  # make the folder; write three files; swap them; sweep
    assert seen.pop("killed") == 2 * steps
    assert seen.pop("torn") > 0
    # New from the moment the weights are swapped: 2 more swaps, 3 sweeps, and the save that was not killed.
    assert seen == {"old": 2 * (steps - 5), "new": 2 * 6}


def test_a_disk_that_fills_at_any_size(tmp_path: Path) -> None:
    """A real limit of the system, not a pretended one."""
    seen = _run(tmp_path, "full")
    assert seen == {"refused": 8, "old": 8, "new": 1, "torn": 0}
