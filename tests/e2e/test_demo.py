"""A short run of the demo's own code on the real model, so that the main path can never break unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import demo
import fetch_models
import pytest
import torch
from benchmarks.baselines import Outcome
from demo_report import shown, table, verdict

import hf_reprogram as hr
from hf_reprogram.testing.models import tiny


METHODS = {
    "ours", "majority", "classical:8", "classical:all", "zero_shot", "calibrated", "probe", "random_source"
}  # fmt: skip
TEST_ROWS = 8


@dataclass(frozen=True)
class Run:
    """What the short run printed and left."""

    folder: Path
    printed: str
    errors: str


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """8 sentences, 3 steps, every row of the table, on one core."""
    try:
        for name in (demo.MODEL, demo.DATA):
            fetch_models.fetch(name, quiet=True)
    except fetch_models.AssetError as error:
        pytest.skip(f"the demo's model and data are not there and cannot be fetched: {str(error).splitlines()[0]}")
    folder = tmp_path_factory.mktemp("demo") / "output"
    short = ["--train-rows", "8", "--test-rows", str(TEST_ROWS), "--steps", "3"]
    done = subprocess.run(
        [sys.executable, demo.__file__, "--output", folder, *short],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return Run(folder, done.stdout, done.stderr)


def test_it_leaves_the_program_the_figure_and_the_table_and_nothing_else(smoke: Run):
    assert sorted(os.listdir(smoke.folder)) == ["figure.png", "program", "table.json"]
    files = {path.name: path.stat().st_size for path in (smoke.folder / "program").iterdir()}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert sum(files.values()) <= 40_000
    png = (smoke.folder / "figure.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 1600  # pixels wide


def test_the_table_has_every_row_with_every_field(smoke: Run):
    rows = json.loads((smoke.folder / "table.json").read_text())
    assert {row["method"] for row in rows} == METHODS and len(rows) == len(METHODS)
    for row in rows:
        assert row["task"] == demo.TASK == "reviews"
        assert row["n"] == TEST_ROWS and row["accuracy"] * TEST_ROWS / 100 in range(TEST_ROWS + 1)
        assert row["seconds"] >= 0 and row["artefact_bytes"] >= 0 and row["note"]
        assert row["method"] in smoke.printed
    assert [row["accuracy"] for row in rows] == sorted((row["accuracy"] for row in rows), reverse=True)

    by_name = {row["method"]: row for row in rows}
    assert by_name["ours"]["trained_parameters"] == by_name["random_source"]["trained_parameters"] == 10 * 576
    assert by_name["probe"]["trained_parameters"] == 2 * (576 + 1)
    assert by_name["zero_shot"]["trained_parameters"] == by_name["majority"]["trained_parameters"] == 0
    size = sum(path.stat().st_size for path in (smoke.folder / "program").iterdir())
    assert by_name["ours"]["artefact_bytes"] == size


def test_the_program_loads_again_and_says_what_the_demo_printed(smoke: Run):
    assert "bit for bit" in smoke.printed and "the frozen model is unchanged" in smoke.printed
    model = hr.AutoReprogramModel.from_pretrained(smoke.folder / "program")  # strict: the base's bytes are checked too
    again = hr.AutoReprogramModel.from_pretrained(smoke.folder / "program", base_model=model.unload())
    for sentence, guess in zip(demo.SENTENCES, again.predict(demo.SENTENCES), strict=True):
        assert f"{guess['label']}  {100 * guess['score']:5.1f} %  {sentence}" in smoke.printed
    assert str(again.explain()) in smoke.printed

    training = again.peft_config["default"].training
    assert (training["seed"], training["steps"], training["data"]) == (0, 3, "vader-amazon, 8 sentences")
    (ours,) = (row for row in json.loads((smoke.folder / "table.json").read_text()) if row["method"] == "ours")
    assert training["metrics"] == {"accuracy": ours["accuracy"], "test_rows": TEST_ROWS}


def test_it_shows_progress_of_both_processes_and_no_noise(smoke: Run):
    told = [line.split() for line in smoke.printed.splitlines() if "%" in line and " s " in line]
    for name in ("untaught", "ours", "random_source"):
        assert [name, "100%"] in [line[:2] for line in told]
    assert smoke.errors == ""
    assert all(len(line) <= 100 for line in smoke.printed.splitlines() if line[:13].strip() in METHODS)


# Its parts -----------------------------------------------------------------------------------------------------------


def test_digest_sees_a_single_changed_number():
    base, _ = tiny("llama")
    before = demo.digest(base)
    assert demo.digest(base) == before
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-3
    assert demo.digest(base) != before


def fill(made: Path, text: str) -> None:
    (made / "program").mkdir()
    (made / "program" / text).write_text(text)
    (made / "table.json").write_text(text)


def test_a_second_run_replaces_what_the_first_left_and_touches_nothing_else(tmp_path: Path):
    (tmp_path / ".making-killed" / "program").mkdir(parents=True)
    (tmp_path / "of the user").write_text("mine")
    for text in ("first", "second"):
        with demo.replacing(tmp_path) as made:
            fill(made, text)
    assert sorted(os.listdir(tmp_path)) == ["of the user", "program", "table.json"]
    assert os.listdir(tmp_path / "program") == ["second"] and (tmp_path / "table.json").read_text() == "second"

    with pytest.raises(ZeroDivisionError), demo.replacing(tmp_path) as made:
        fill(made, "third")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "program") == ["second"] and len(os.listdir(tmp_path)) == 3


def outcome(method: str, right: int, of: int = 100) -> Outcome:
    return Outcome(method, ["positive"] * right + ["negative"] * (of - right), 1, 1, 1.0)


def said(outcomes: list[Outcome]) -> str:
    text = verdict(outcomes, ["positive"] * 100)
    assert max(map(len, text.splitlines())) <= 100
    return " ".join(text.split())


def test_the_verdict_says_who_won_and_who_did_not():
    others = {"calibrated": 80, "zero_shot": 66, "probe": 75, "classical:all": 78, "majority": 63, "random_source": 50}
    outcomes = [outcome("ours", 85), *(outcome(*pair) for pair in others.items())]
    # 5 of 100 rows differ, all in our favour: sqrt(0.05 * 0.95 / 99) = 2.19 %
    assert "ours is 5.0 points above calibrated (standard error 2.2)" in said(outcomes)
    assert "No simpler model reaches it here." in said(outcomes)

    beaten = [replace(outcomes[0], guesses=["negative"] * 100), *outcomes[1:]]
    assert "ours is 80.0 points BELOW calibrated" in said(beaten)
    assert "as good here: calibrated (80.0), classical:all (78.0)" in said(beaten)


def test_the_table_is_sorted_and_fits_a_hundred_columns():
    truth = ["positive"] * 100
    notes = {"ours": "x" * 33, "probe": "y"}
    rows = table([outcome("probe", 70), outcome("ours", 85)], truth, notes, "a task")
    assert [(row["method"], row["accuracy"], row["standard_error"]) for row in rows] == [
        ("ours", 85.0, 3.57),
        ("probe", 70.0, 4.58),
    ]
    assert max(map(len, shown(rows).splitlines())) <= 100
