"""Two ranks do what one process does; ranks never part; rank 0 alone writes. All by gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from tests.training import two_ranks


Found = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(folder: Path) -> tuple[Found, Found]:
    """What every run gave on rank 0 and on rank 1."""
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, two_ranks.__file__, str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return tuple(torch.load(folder / f"{rank}.pt") for rank in range(2))


def close(found: dict[str, Tensor], expected: dict[str, Tensor], limit: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=limit, rtol=0)


def test_there_are_two_ranks(ranks: tuple[Found, Found]) -> None:
    """E§0 31: `accelerate launch --cpu --num_processes 2` runs one process without a word."""
    assert [found["world"] for found in ranks] == [2, 2]


@pytest.mark.parametrize("run", ["plain", "buckets", "few_tokens", "estimated", "stream"])
def test_two_ranks_are_one_process(run: str, ranks: tuple[Found, Found], tmp_path: Path) -> None:
    """Invariant 8, on a set that divides: the same rows in each step, whoever reads them."""
    alone = two_ranks.RUNS[run](tmp_path)
    for found in ranks:
        close(found[run], alone)


@pytest.mark.parametrize("run", ["plain", "buckets", "few_tokens", "estimated", "different_data", "stream"])
def test_ranks_end_with_the_same_numbers(run: str, ranks: tuple[Found, Found]) -> None:
    """Bit for bit, also where each was given other rows (N25: a start estimated on each rank's own would differ)."""
    close(ranks[1][run], ranks[0][run], 0.0)


def test_resumed_in_the_midst_of_an_epoch_is_uninterrupted(ranks: tuple[Found, Found]) -> None:
    """accelerate's set_epoch does not reach a sampler whose batches are skipped and dealt out to ranks."""
    for found in ranks:
        close(found["resumed"], found["buckets"], 0.0)


def test_ranks_with_different_numbers_of_rows_are_told(ranks: tuple[Found, Found]) -> None:
    for found in ranks:
        assert "train_dataset: has (8, 7) rows on the ranks" in found["different_numbers"]["error"]


def test_rank_0_alone_writes(ranks: tuple[Found, Found], folder: Path) -> None:
    written = [int(found["recipe_run"]["written"]) for found in ranks]
    assert written[0] >= 1 and written[1] == 0
    assert ranks[0]["recipe_run"]["batch"] == 4
    made = {p.name for p in (folder / "recipe_run" / "out").iterdir()}
    assert made == {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, "checkpoints"}
    for name in ("program.0.slots",):
        assert torch.equal(ranks[0]["recipe_run"][name], ranks[1]["recipe_run"][name])


class TestSharded:
    """FSDP2: decoder layers and root (E§0 32: Trainer's own switch silently becomes DDP on the CPU)."""

    def test_gradients_are_those_of_the_whole_model(self, ranks: tuple[Found, Found], tmp_path: Path) -> None:
        """E§0 33, N2: a program read outside its own forward would mix tensors; unregistered pytrees die."""
        alone = two_ranks.sharded(tmp_path)
        assert alone["gradient"].abs().max() > 1e-4
        for found in ranks:
            torch.testing.assert_close(found["sharded"]["gradient"], alone["gradient"], atol=1e-7, rtol=0)

    def test_what_is_saved_is_exactly_the_program(self, ranks: tuple[Found, Found]) -> None:
        found = ranks[0]["sharded"]
        assert found["saved"].keys() == {"program.0.slots"}
        assert torch.equal(found["saved"]["program.0.slots"], found["program.0.slots"])
