"""A map that is estimated anew while a program trains under it: when, from what, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, UsageError
from hf_reprogram.testing import LABELS, ROWS, tiny


def model_of(**mapping: Any) -> hr.ReprogramModel:
    base, tokenizer = tiny("llama")
    config = hr.ReprogramConfig(
        program=hr.PromptConfig(template="{prompt:2} {text}{answer}"), mapping=mapping, labels=LABELS
    )
    return hr.get_reprogram_model(base, config, tokenizer)


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 3, "learning_rate": 0.5, "report_to": []}
    return TrainingArguments(str(folder), remove_unused_columns=False, use_cpu=True, **given | more)


RIDGE = {"type": "linear", "on": "state", "solver": "ridge"}


def test_after_each_epoch_until_a_share_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of(**RIDGE, refit_every=1, refit_until=0.75), []
    trainer = hr.make_trainer(model, arguments(tmp_path, save_strategy="no"), ROWS)
    fit = type(model).fit_mapping
    monkeypatch.setattr(
        type(model), "fit_mapping", lambda self, *a, **k: (seen.append(trainer.state.global_step), fit(self, *a, **k))
    )
    trainer.train()
    assert seen == [0, 2, 4]  # two steps to an epoch; at 6 of 8 three quarters are done


def test_it_is_the_map_of_the_program_as_it_is_now(tmp_path: Path) -> None:
    model = model_of(**RIDGE, refit_every=1, refit_until=1.0)
    steady = {"save_strategy": "no", "lr_scheduler_type": "constant"}
    hr.make_trainer(model, arguments(tmp_path, **steady, max_steps=3), ROWS).train()
    # The last estimate was after step 2, and one step came after it: estimated now, it is another one.
    kept = model.active_mapping().matrix.clone()
    model.fit_mapping(ROWS)
    assert not torch.equal(kept, model.active_mapping().matrix)
    twin = model_of(**RIDGE)
    hr.make_trainer(twin, arguments(tmp_path, **steady, max_steps=2), ROWS).train()
    twin.fit_mapping(ROWS)
    torch.testing.assert_close(twin.active_mapping().matrix, kept)


def test_going_on_in_the_midst_of_an_epoch_is_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = model_of(**RIDGE, refit_every=1, refit_until=1.0)
    options = {"save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "constant"}
    hr.make_trainer(whole, arguments(tmp_path / "whole", **options), ROWS).train()
    model = model_of(**RIDGE, refit_every=1, refit_until=1.0)
    options = {"save_strategy": "no", "lr_scheduler_type": "constant"}
    hr.make_trainer(model, arguments(tmp_path / "on", **options), ROWS).train(str(tmp_path / "whole" / "checkpoint-3"))
    for key, value in whole.reprogrammed.state_dict().items():
        if "mapping" in key or "program" in key:
            assert torch.equal(value, model.reprogrammed.state_dict()[key]), key


def test_a_program_that_does_not_train_needs_no_second_estimate(tmp_path: Path) -> None:
    from hf_reprogram.training.estimation import refits

    model = model_of(**RIDGE, refit_every=1)
    model.set_adapter("default", inference_mode=True)
    assert not refits(model)


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"LinearConfig.refit_every.*solver='gradient'"):
        model_of(type="linear", solver="gradient", refit_every=1)
    with pytest.raises(ConfigError, match=r"LabelsConfig.refit_every.*estimates nothing"):
        model_of(type="labels", method="random", centred=False, refit_every=1)

    from datasets import Dataset

    model = model_of(**RIDGE, refit_every=1)
    model.fit_mapping(ROWS)
    stream = Dataset.from_list(ROWS).to_iterable_dataset()
    with pytest.raises(UsageError, match="the mapping is estimated from all rows"):
        hr.make_trainer(model, arguments(tmp_path, max_steps=2, save_strategy="no"), stream)
