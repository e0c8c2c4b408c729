"""The Hub, and PEFT beside us: each in a process of its own, because of what happens at import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]


def _python(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_push_and_load_against_a_hub_on_this_machine(tmp_path: Path) -> None:
    """All of `hub_cases.py`; without our conftest.py, which forbids the Hub."""
    options = [
        "-q",
        "--noconftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=short",
        f"--basetemp={tmp_path}/t",
    ]
    done = _python("-m", "pytest", *options, "tests/hub_cases.py")
    assert done.returncode == 0, done.stdout[-20000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("first", ["hf_reprogram", "hf_reprogram.config", "hf_reprogram.wrap"])
def test_peft_knows_our_type_whichever_comes_first(first: str) -> None:
    """E§0 3: PEFT's own loaders end in a bare KeyError where nobody has told them."""
    code = f"import {first}, peft.mapping; print(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING['REPROGRAM'])"
    assert _python("-c", code).stdout == "<class 'hf_reprogram.config.ReprogramConfig'>\n"
