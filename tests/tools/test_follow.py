"""The bound while a program trains: each look is what its parts say, and training goes on as without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.testing import ROWS, tiny
from hf_reprogram.testing.helpers import LABELS
from hf_reprogram.tools.bound import bound


SOURCE = [{"text": row["text"], "label": f"LABEL_{i % 7}"} for i, row in enumerate(ROWS * 4)]


def model_of(family: str = "bert-classifier") -> hr.ReprogramModel:
    base, tokenizer = tiny(family)
    mapping = {"type": "linear", "on": "classes" if "classifier" in family else "state", "solver": "gradient"}
    program = {"type": "prompt", "template": "{prompt:2} {text}"}
    if mapping["on"] == "state":
        mapping["pool"] = "mean"
    config = hr.ReprogramConfig(program=program, mapping=mapping, labels=LABELS)
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


def trained(folder: Any, callbacks: list[Any], model: hr.ReprogramModel) -> torch.Tensor:
    args = TrainingArguments(
        folder, num_train_epochs=2, per_device_train_batch_size=3, report_to=[], use_cpu=True, save_strategy="no",
        disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    hr.make_trainer(model, args, ROWS, callbacks=callbacks).train()
    return model.active_programs()[0].slots.detach().clone()


def test_a_look_at_the_start_and_after_every_epoch_and_training_as_without(tmp_path: Any) -> None:
    model = model_of()
    follow = hr.FollowBound(model, ROWS, SOURCE)
    assert [p.requires_grad for p in model.active_programs()[0].parameters()] == [True]
    with_it = trained(tmp_path / "a", [follow], model)
    assert torch.equal(with_it, trained(tmp_path / "b", [], model_of()))
    assert [row["epoch"] for row in follow.history] == [0.0, 1.0, 2.0]
    for row in follow.history:
        assert row["risk"] <= row["bound"] + 1e-9 and row["error"] <= 2**0.5 * row["risk"] + 1e-9
        assert row["bound"] == pytest.approx(row["source_risk"] + row["distance"] / 2)
        assert len(set(row["stands_for"].values())) == 2


def test_a_look_is_the_bound_of_the_scores() -> None:
    model = model_of()
    follow = hr.FollowBound(model, ROWS, SOURCE)
    row = follow.look(0.0)
    collator = model.collator()
    columns = collator.stack(collator.lay_out(ROWS, labelled=False))
    z = model.reprogrammed.readout(columns, hr.Reading("classes")).double().numpy()
    base, tokenizer = tiny("bert-classifier")
    texts = tokenizer([r["text"] for r in SOURCE], padding=True, return_tensors="pt")
    with torch.no_grad():
        plain = base(**texts).logits.double().numpy()
    y = np.array([LABELS.index(r["label"]) for r in ROWS])
    stands_for = [int(row["stands_for"][name].split("_")[1]) for name in LABELS]
    found = bound(z, y, plain, _classes(), stands_for)
    assert row["bound"] == pytest.approx(found.value, rel=1e-4) and row["risk"] == pytest.approx(found.risk, rel=1e-4)


def _classes() -> np.ndarray:
    return np.array([int(row["label"].split("_")[1]) for row in SOURCE])


def test_the_curve() -> None:
    history = [
        {"epoch": float(i), "bound": 2.0 - i, "risk": 1.0 - 0.2 * i, "source_risk": 0.3, "distance": 3.4 - 2 * i}
        for i in range(2)
    ]
    axes = hr.plot_bound(history).axes[0]
    lines = axes.get_lines()
    assert [list(line.get_ydata()) for line in lines[:3]] == [[2.0, 1.0], [1.0, 0.8], [0.3, 0.3]]
    assert list(lines[3].get_ydata()) == [1.7, pytest.approx(0.7)]
    for told in ("get_color", "get_linestyle", "get_marker"):  # lines that lie on each other are told apart
        assert len({getattr(line, told)() for line in lines[:4]}) == 4
    assert axes.get_ylim()[0] < 0.0  # and from the axis


def test_what_cannot_be_followed() -> None:
    with pytest.raises(UsageError, match="a classifier"):
        hr.FollowBound(model_of("bert-encoder"), ROWS, SOURCE)
    with pytest.raises(DataError, match=r"source_rows\)\[0\].*LABEL_0"):
        hr.FollowBound(model_of(), ROWS, [{"text": "so good", "label": "elsewhere"}])
    with pytest.raises(DataError, match="without labels"):
        hr.FollowBound(model_of(), [{"text": "so good"}], SOURCE)
    few = hr.FollowBound(model_of(), ROWS, SOURCE[:1])
    with pytest.raises(DataError, match="no row of the class"):
        few.look(0.0)


@pytest.mark.parametrize("history", [[], [{"epoch": 0}]])
def test_a_history_without_a_bound_is_refused(history: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match=r"plot_bound\(history\)"):
        hr.plot_bound(history)
