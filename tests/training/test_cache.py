"""Training of a mapping alone: the frozen model runs once over the rows, and every step is what it would have been."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.errors import UsageError
from hf_reprogram.features import FrozenRows
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import LABELS, ROWS, tiny
from hf_reprogram.training import cache
from hf_reprogram.training.trainer import make_trainer


LINEAR = hr.LinearConfig(solver="gradient")
TRAINED_ROWS = hr.VerbalizerConfig(words={"negative": [" bad"], "positive": [" good"]}, rows="trained")


def built(mapping: Any = LINEAR, program: str = "{text} it was{answer}", family: str = "llama") -> ReprogramModel:
    """A model on which only the mapping trains."""
    base, tokenizer = tiny(family)
    kind = "prompt" if "{prompt" in program else "none"
    config = hr.ReprogramConfig(program={"type": kind, "template": program}, mapping=mapping, labels=LABELS)
    model = hr.get_reprogram_model(base, config, tokenizer)
    model.base_model.sites()[0].requires_grad_(False)
    return model


def trainer_of(model: ReprogramModel, folder: Path, rows: Any = ROWS, live: bool = False, **options: Any) -> Trainer:
    """Plain SGD; live where a collator is given, as a user may."""
    more = {k: options.pop(k) for k in ("eval_dataset", "cache", "rebuild") if k in options}
    arguments = TrainingArguments(
        str(folder),
        remove_unused_columns=False,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=options.pop("per_device_train_batch_size", 2),
        **{"save_strategy": "no", "optim": "sgd", "learning_rate": 0.5, "max_steps": 6, **options},
    )
    return make_trainer(model, arguments, rows, data_collator=model.collator() if live else None, **more)


class EveryStep(TrainerCallback):
    """The mapping's numbers after every step."""

    def __init__(self, model: ReprogramModel) -> None:
        self.mapping, self.seen = model.active_mapping(), []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seen.append(torch.cat([p.detach().flatten().clone() for p in self.mapping.parameters()]))


def steps(trainer: Trainer) -> Tensor:
    """(steps, numbers)"""
    trainer.add_callback(watch := EveryStep(trainer.model))
    trainer.train()
    return torch.stack(watch.seen)


def rows_run(model: ReprogramModel) -> list[int]:
    """Rows of every pass of the base from now on."""
    seen: list[int] = []
    run = model.backbone.states
    model.backbone.states = lambda batch, *rest: (seen.append(len(batch)), run(batch, *rest))[1]
    return seen


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
@pytest.mark.parametrize("mapping", [LINEAR, TRAINED_ROWS], ids=["linear", "trained rows"])
def test_every_step_is_that_of_live_features(family: str, mapping: Any, tmp_path: Path) -> None:
    live, kept = built(mapping, family=family), built(mapping, family=family)
    seen = rows_run(kept)
    theirs, ours = steps(trainer_of(live, tmp_path, live=True)), steps(trainer_of(kept, tmp_path))
    assert len(ours) == 6 and not torch.equal(ours[0], ours[-1])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert sum(seen) <= len(ROWS) + 1, "the body ran again"


def test_a_frozen_prompt_under_a_mapping_that_trains(tmp_path: Path) -> None:
    program = "{prompt:3} {text} it was{answer}"
    live, kept = built(program=program), built(program=program)
    theirs, ours = steps(trainer_of(live, tmp_path, live=True)), steps(trainer_of(kept, tmp_path))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert isinstance(trainer_of(kept, tmp_path).train_dataset, FrozenRows)


def test_accumulation_counts_rows_as_before(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 3, "max_steps": 1, "max_grad_norm": 0.0}
    kept = steps(trainer_of(built(), tmp_path, **options))
    whole = steps(trainer_of(built(), tmp_path, per_device_train_batch_size=6, max_steps=1, max_grad_norm=0.0))
    torch.testing.assert_close(kept, whole, atol=1e-6, rtol=0)


def test_the_map_starts_from_ridge_on_the_same_features(tmp_path: Path) -> None:
    mapping = hr.LinearConfig(solver="gradient", start="ridge")
    live, kept = built(mapping), built(mapping)
    seen = rows_run(kept)
    theirs, ours = steps(trainer_of(live, tmp_path, live=True)), steps(trainer_of(kept, tmp_path))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert sum(seen) <= len(ROWS) + 1


class TestEvaluation:
    def test_of_frozen_rows(self, tmp_path: Path) -> None:
        model = built()
        trainer = trainer_of(model, tmp_path, eval_dataset={"a": ROWS, "b": ROWS[:3]})
        seen = rows_run(model)
        found = [trainer.evaluate() for _ in range(3)]
        assert seen == []
        assert found[0]["eval_a_loss"] == pytest.approx(model.evaluate(ROWS)["loss"], abs=1e-5)
        assert found[0]["eval_b_accuracy"] == pytest.approx(model.evaluate(ROWS[:3])["accuracy"])

    def test_of_any_other_rows(self, tmp_path: Path) -> None:
        model = built()
        trainer = trainer_of(model, tmp_path)
        assert trainer.evaluate(ROWS[:4])["eval_loss"] == pytest.approx(model.evaluate(ROWS[:4])["loss"], abs=1e-5)

    def test_the_best_checkpoint(self, tmp_path: Path) -> None:
        model = built()
        options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
        trainer = trainer_of(model, tmp_path, eval_dataset=ROWS, load_best_model_at_end=True, **options)
        trainer.train()
        best = min(log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log)
        assert model.evaluate(ROWS)["loss"] == pytest.approx(best, abs=1e-5)


class TestStaysLive:
    """What is not the same every time runs every time."""

    def test_a_program_that_trains(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = built(program="{prompt:3} {text} it was{answer}")
        model.base_model.sites()[0].requires_grad_(True)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            assert trainer_of(model, tmp_path).train_dataset is ROWS
        assert caplog.text == ""
        with pytest.raises(UsageError, match="the program trains"):
            trainer_of(model, tmp_path, cache=tmp_path / "cache")

    def test_rows_that_are_drawn_anew(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        looks = []

        def crop(batch: dict[str, Any]) -> dict[str, Any]:
            looks.append(1)
            return {**batch, "text": [text + " and" * (len(looks) % 4) for text in batch["text"]]}

        rows = datasets.Dataset.from_list(ROWS).with_transform(crop)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            trainer = trainer_of(built(), tmp_path, rows)
        assert trainer.train_dataset is rows and "other rows at every look" in caplog.text
        trainer.train()

    def test_a_dataset_that_does_not_change_is_frozen(self, tmp_path: Path) -> None:
        assert isinstance(trainer_of(built(), tmp_path, datasets.Dataset.from_list(ROWS)).train_dataset, FrozenRows)

    def test_more_than_fits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        monkeypatch.setattr(cache, "IN_MEMORY", 100)
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            assert trainer_of(built(), tmp_path).train_dataset is ROWS
        assert "cache=folder" in caplog.text
        assert isinstance(trainer_of(built(), tmp_path, cache=tmp_path / "c").train_dataset, FrozenRows)


def test_a_folder_serves_the_next_run(tmp_path: Path) -> None:
    first = steps(trainer_of(built(), tmp_path, cache=tmp_path / "cache"))
    model = built()
    seen = rows_run(model)
    again = steps(trainer_of(model, tmp_path, cache=tmp_path / "cache"))
    assert torch.equal(first, again) and sum(seen) <= 4
    with pytest.raises(UsageError, match="reading.pool"):
        trainer_of(built(hr.LinearConfig(solver="gradient", pool="mean")), tmp_path, cache=tmp_path / "cache")
    other = built(hr.LinearConfig(solver="gradient", pool="mean"))
    trainer_of(other, tmp_path, cache=tmp_path / "cache", rebuild=True)


class TestForward:
    """`readout` in the place of columns."""

    def test_it_is_what_the_mapping_reads(self) -> None:
        model = built()
        columns = model.collator()(ROWS)
        readout = model.reprogrammed.readout(
            {k: v for k, v in columns.items() if k != "labels"}, model.active_mapping().reading()
        )
        live, kept = model(**columns), model(readout=readout, labels=columns["labels"])
        assert torch.equal(kept.logits, live.logits) and torch.equal(kept.loss, live.loss)

    @pytest.mark.parametrize("what", ["rows to run", "a disabled program", "no mapping"])
    def test_what_it_cannot_stand_beside(self, what: str) -> None:
        base, tokenizer = tiny("llama")
        model = hr.get_reprogram_model(base, hr.ReprogramConfig(), tokenizer) if what == "no mapping" else built()
        more = {"input_ids": torch.ones(1, 3, dtype=torch.long)} if what == "rows to run" else {}
        with pytest.raises(UsageError, match=f"given with {what}"):
            if what == "a disabled program":
                with model.disable_adapter():
                    model(readout=torch.zeros(1, 32))
            model(readout=torch.zeros(1, 32), **more)
