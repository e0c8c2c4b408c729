"""The last whole checkpoint: half-written ones are passed over, and one line says so."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
from transformers import Trainer, TrainingArguments

from hf_reprogram.artefact import WEIGHTS_FILE
from hf_reprogram.testing import ROWS, build, program_config
from hf_reprogram.training.checkpoints import last_whole


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of two and of ten steps: sorted as text, ten would come first."""
    folder, model = tmp_path_factory.mktemp("run"), build(program_config("prompt"), "llama")
    arguments = TrainingArguments(
        str(folder), remove_unused_columns=False, report_to=[], use_cpu=True, disable_tqdm=True, max_steps=10,
        save_strategy="steps", save_steps=2, per_device_train_batch_size=2, learning_rate=0.07,
    )  # fmt: skip
    Trainer(model, arguments, train_dataset=ROWS, data_collator=model.collator()).train()
    for step in (4, 6, 8):
        shutil.rmtree(folder / f"checkpoint-{step}")
    return folder


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert last_whole(tmp_path) is None and last_whole(tmp_path / "missing") is None


def test_the_one_of_most_steps(run: Path) -> None:
    assert last_whole(run) == run / "checkpoint-10"


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_torn_one_is_passed_over(
    name: str, share: float, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "run")
    torn = tmp_path / "run" / "checkpoint-10" / name
    torn.write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    with caplog.at_level(logging.WARNING):
        assert last_whole(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"
    assert "checkpoint-10 is passed over" in caplog.text


@pytest.mark.parametrize("name", [WEIGHTS_FILE, "trainer_state.json"])
def test_one_without_its_last_files_is_passed_over(name: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-10" / name).unlink()
    assert last_whole(tmp_path / "run") == tmp_path / "run" / "checkpoint-2"


def test_other_folders_are_none_of_its_business(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert last_whole(tmp_path) is None
