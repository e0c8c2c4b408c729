"""Saves that cannot succeed: they say why, and the old artefact loads with its old values."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_reprogram import artefact
from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.errors import ArtefactError
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import ROWS, logits_of
from hf_reprogram.testing.helpers import train_step
from tests.artefact_kit import host, nothing_changes, same, saved, trained
from tests.disk_steps import Steps


FILES = [CARD_FILE, CONFIG_FILE, WEIGHTS_FILE]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved prompt with a verbalizer."""
    return saved("prompt", tmp_path / "program")


def _files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk still lets files be removed


def _failing(code: int) -> Callable[[str], None]:
    def act(step: str) -> None:
        if code not in FULL or step != "unlink":
            raise OSError(code, os.strerror(code), step)

    return act


def _steps(folder: Path) -> list[str]:
    with Steps(folder).watched() as steps:
        trained("prompt").save_pretrained(folder)
    return steps.seen


def test_the_steps_of_a_save(folder: Path) -> None:
    """What the tests below fail at: everything is written and flushed before anything is replaced."""
    seen = [s for s in _steps(folder) if s not in ("mkdir", "unlink")]
    assert seen == ["open", "write", "half-written", "flush", "fsync"] * 3 + ["replace"] * 3


@pytest.mark.parametrize("lasting", [True, False], ids=["for-good", "once"])
@pytest.mark.parametrize("code", [*FULL, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_disk_that_fails_at_any_step(folder: Path, code: int, lasting: bool) -> None:
    """Full, read-only, forbidden, broken: our error, no temporary files, and the old program or (once its weights are
    in place, and then the error says so) the new one."""
    model = trained("prompt")
    train_step(model)
    count = len(_steps(folder))
    saved("prompt", folder)
    old = artefact.load(folder)
    for at in range(1, count + 1):
        saved("prompt", folder)
        steps = Steps(folder, at, _failing(code), lasting)
        with nothing_changes(model), steps.watched():
            error = _error_of(model, folder)
        if error is None:  # the folder that could not be made is there; the temporary file not removed is gone
            assert steps.seen[at - 1] in ("mkdir", "unlink") and _files(folder) == FILES
            continue
        assert os.strerror(code) in error.what and error.expected and str(folder) in error.where
        if "the new program is in place" in error.fix:
            assert steps.seen[at - 1] == "replace"
            assert torch.equal(artefact.load(folder)[1]["program.0.slots"], model.active_programs()[0].slots)
        else:
            assert "intact" in error.fix and same(artefact.load(folder), old)
        # A disk that lets nothing be removed keeps what it has.
        assert (lasting and code not in FULL) or _files(folder) == FILES


def _error_of(model: ReprogramModel, folder: Path) -> ArtefactError | None:
    try:
        model.save_pretrained(folder)
    except ArtefactError as error:
        return error
    return None


@pytest.mark.parametrize("at", range(1, 20))
def test_an_interrupt_at_any_step_leaves_no_temporary_files(folder: Path, at: int) -> None:
    def interrupt(step: str) -> None:
        raise KeyboardInterrupt

    model = trained("prompt")
    with pytest.raises(KeyboardInterrupt), Steps(folder, at, interrupt).watched():
        model.save_pretrained(folder)
    assert _files(folder) == FILES
    artefact.load(folder)


def test_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "reviews"
    path.write_text("precious")
    model = trained("prompt")
    for place in (path, path / "below"):
        with nothing_changes(model), pytest.raises(ArtefactError, match="a folder with room that may be written to"):
            model.save_pretrained(place)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("place", ["/proc/hf_reprogram", "/proc/self/x/y", "/dev/null", "a\0b", "x" * 300])
def test_places_that_cannot_be(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even root can."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError, match="could not be written"):
        trained("prompt").save_pretrained(place)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_stands_where_a_file_should(folder: Path) -> None:
    (folder / CARD_FILE).unlink()
    (folder / CARD_FILE).mkdir()
    with pytest.raises(ArtefactError, match="the new program is in place"):
        trained("prompt").save_pretrained(folder)
    (folder / WEIGHTS_FILE).unlink()
    (folder / WEIGHTS_FILE).mkdir()
    with pytest.raises(ArtefactError, match="intact"):
        trained("prompt").save_pretrained(folder)


class TestWhatMayNotBeSaved:
    """Refused before the first byte is written."""

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_numbers_that_are_none(self, folder: Path, value: float) -> None:
        model = trained("prompt")
        with torch.no_grad():
            model.active_programs()[0].slots[2, 3] = value
        self._refused(model, folder, r"program\.0\.slots holds NaN or infinity.*nothing was written")

    @pytest.mark.parametrize(
        "training",
        [{"loss": float("nan")}, {"loss": float("inf")}, {"where": Path()}, {"seeds": {1, 2}}, {"a": 1, 2: 3},
         {"note": "\ud800"}, {"loss": torch.tensor(1.0)}],
    )  # fmt: skip
    def test_a_record_that_is_no_json(self, folder: Path, training: dict[Any, Any]) -> None:
        model = trained("prompt")
        model.peft_config["default"].training = training
        self._refused(model, folder, r"is no JSON.*ReprogramConfig\.training")

    def test_a_record_that_could_not_be_loaded(self, folder: Path) -> None:
        model, deep = trained("prompt"), []
        for _ in range(100):
            deep = [deep]
        model.peft_config["default"].training = {"deep": deep}
        self._refused(model, folder, "nests too deep")

    @staticmethod
    def _refused(model: ReprogramModel, folder: Path, says: str) -> None:
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        with Steps(folder).watched() as steps, pytest.raises(ArtefactError, match=says):
            model.save_pretrained(folder)
        assert steps.seen == []
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_an_unknown_program_saves_nothing(tmp_path: Path) -> None:
    from hf_reprogram.errors import UsageError

    with pytest.raises(UsageError, match="unknown program 'defalt'.*did you mean 'default'"):
        trained("prompt").save_pretrained(tmp_path, selected_adapters=["defalt"])
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_save_left_is_removed_by_a_later_one(folder: Path) -> None:
    """Not at once: it might be another process at work."""
    old, young = folder / f".{WEIGHTS_FILE}.4000000.tmp", folder / f".{CONFIG_FILE}.4000001.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    (folder / ".notes.tmp").write_text("not ours")
    os.utime(folder / ".notes.tmp", (0, 0))
    trained("prompt").save_pretrained(folder)
    assert _files(folder) == sorted([young.name, ".notes.tmp", *FILES])


def test_a_save_replaces_a_link_and_leaves_what_it_pointed_to(folder: Path, tmp_path: Path) -> None:
    """In the Hub's cache a file is a link to a blob that other revisions share."""
    blob = tmp_path / "blob"
    (folder / WEIGHTS_FILE).rename(blob)
    (folder / WEIGHTS_FILE).symlink_to(blob)
    before, model = blob.read_bytes(), trained("prompt")
    train_step(model)
    model.save_pretrained(folder)
    assert blob.read_bytes() == before and not (folder / WEIGHTS_FILE).is_symlink()
    again = host()
    again.load_adapter(folder, "default")
    assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))
