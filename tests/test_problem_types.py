"""Single label, several labels, numbers: losses by hand, rows, class weights, predictions, training."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import TrainingArguments

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.losses import multi_label, regression, single_label
from hf_reprogram.metrics import metrics
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, tiny
from hf_reprogram.training.trainer import make_trainer


TEXTS = [row["text"] for row in ROWS]
TAGS = [["good"], ["phone"], ["good", "phone"], [], ["good"], ["phone"]]
MULTI = "multi_label_classification"


def _model(problem_type: str, labels: list[str], solver: str = "gradient", **config: object) -> ReprogramModel:
    base, tokenizer = tiny("bert-encoder")
    return get_reprogram_model(
        base,
        ReprogramConfig(
            program={"type": "prompt", "template": "{prompt:3} {text}"},
            mapping={"type": "linear", "pool": "mean", "solver": solver},
            labels=labels,
            problem_type=problem_type,
            **config,
        ),
        tokenizer,
    )


class TestByHand:
    def test_class_weights_multiply_rows_and_leave_their_number_alone(self) -> None:
        """Not torch's weighted mean: its divisor depends on who shares the batch, and accumulation with it."""
        logits, labels = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
        weight = torch.tensor([1.0, 3.0])
        assert single_label(logits, labels, None, weight).item() == pytest.approx(math.log(2) * 2)
        halves = [single_label(logits[i : i + 1], labels[i : i + 1], 2, weight) for i in (0, 1)]
        assert sum(halves).item() == pytest.approx(math.log(2) * 2)

    def test_several_labels(self) -> None:
        logits, labels = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
        each = [math.log(2), math.log(1 + math.exp(2))]
        assert multi_label(logits, labels).item() == pytest.approx(sum(each) / 2)
        weighted = multi_label(logits, labels, None, torch.tensor([1.0, 2.0])).item()
        assert weighted == pytest.approx((each[0] + 2 * each[1]) / 2)

    def test_numbers(self) -> None:
        values, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [5.0]])
        assert regression(values, labels).item() == 2.5
        assert regression(values, labels, 4).item() == 1.25

    def test_metrics(self) -> None:
        found = metrics([[1.0, -1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], MULTI)
        assert found["accuracy"] == 0.5 and found["micro_f1"] == pytest.approx(0.8)
        found = metrics([[1.0], [2.0], [3.0]], [[2.0], [4.0], [6.0]], "regression")
        assert found["pearson"] == pytest.approx(1) and found["mae"] == 2 and found["mse"] == pytest.approx(14 / 3)


class TestRows:
    def test_names_and_numbers_of_several_labels(self) -> None:
        collator = _model(MULTI, ["good", "phone"]).collator()
        batch = collator([{"text": "fine", "label": ["phone"]}, {"text": "fine", "label": [1, 0]}])
        assert batch["labels"].tolist() == [[0, 1], [1, 0]] and batch["labels"].dtype == torch.float32
        assert collator([{"text": "fine", "label": []}])["labels"].tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        ("label", "says"),
        [
            ([1, 0, 1], "2 numbers.*or a list of names"),
            ([0.5, 1.5], "from 0 to 1"),
            (["phon"], "did you mean 'phone'"),
            ([math.nan, 0], "finite"),
            (1, "2 numbers"),
            ("phone", "2 numbers.*or a list of names"),
        ],
    )
    def test_several_labels_of_the_wrong_width_or_kind(self, label: object, says: str) -> None:
        with pytest.raises(DataError, match=f"rows\\[0\\]\\['label'\\].*{says}"):
            _model(MULTI, ["good", "phone"]).collator()([{"text": "fine", "label": label}])

    @pytest.mark.parametrize("label", [math.nan, math.inf, "much", [1.0, 2.0], None])
    def test_targets_that_are_no_number(self, label: object) -> None:
        rows = [{"text": "fine", "label": 1.0}, {"text": "fine", "label": label}]
        with pytest.raises(DataError, match=r"rows\[1\]\['label'\]"):
            _model("regression", ["stars"]).collator()(rows)

    def test_targets_that_went_bad_on_the_way_are_refused_by_the_loss(self) -> None:
        model = _model("regression", ["stars"])
        columns = model.collator()([{"text": "fine", "label": 1.0}])
        with pytest.raises(UsageError, match="labels.*NaN"):
            model(**{**columns, "labels": columns["labels"] * math.nan})


class TestPredictions:
    def test_several_labels_have_probabilities_of_their_own(self) -> None:
        found = _model(MULTI, ["good", "phone"]).predict(TEXTS[:2], top_k=None)
        assert all(len(row) == 2 and 0 < r["score"] < 1 for row in found for r in row)
        assert sum(r["score"] for r in found[0]) != pytest.approx(1)

    def test_every_label_above_one_half_best_first(self) -> None:
        model = _model(MULTI, ["good", "phone", "film"])
        with torch.no_grad():
            model.active_mapping().matrix.zero_()
            model.active_mapping().bias.copy_(torch.tensor([1.0, -1.0, 3.0]))
        shares = torch.tensor([1.0, -1.0, 3.0]).sigmoid().tolist()
        listed = [{"label": "film", "score": shares[2]}, {"label": "good", "score": shares[0]}]
        assert model.predict(TEXTS[:2]) == [listed, listed] and model.predict(TEXTS[0]) == [listed]
        assert model.predict(TEXTS[:1], top_k=1) == listed[:1]  # of the single-label shape: the likeliest
        assert [row["label"] for row in model.predict(TEXTS[:1], top_k=2)[0]] == ["film", "good"]
        with torch.no_grad():
            model.active_mapping().bias.copy_(torch.tensor([-1.0, -1.0, -3.0]))
        assert model.predict(TEXTS[:1]) == [[]]

    def test_numbers_come_by_name(self) -> None:
        model = _model("regression", ["stars", "length"])
        found = model.predict(TEXTS[:1])[0]
        assert [r["label"] for r in found] == ["stars", "length"]
        assert found[0]["score"] == pytest.approx(model.score(TEXTS[:1])[0, 0].item())
        assert _model("regression", ["stars"]).predict("fine")[0]["label"] == "stars"

    def test_evaluation_has_the_metrics_of_its_type(self) -> None:
        rows = [{"text": t, "label": tags} for t, tags in zip(TEXTS, TAGS, strict=True)]
        assert {"micro_f1", "macro_f1", "accuracy", "loss", "n"} == set(
            _model(MULTI, ["good", "phone"]).evaluate(rows)
        )
        rows = [{"text": t, "label": float(len(t))} for t in TEXTS]
        assert {"mse", "mae", "r2", "pearson", "loss", "n"} == set(_model("regression", ["stars"]).evaluate(rows))


class TestTraining:
    @pytest.mark.parametrize(("kind", "labels"), [(MULTI, ["good", "phone"]), ("regression", ["stars"])])
    def test_gradients_of_two_half_batches_are_those_of_one(self, kind: str, labels: list[str]) -> None:
        """Trainer counts elements, rows times outputs; so does the loss (N18)."""
        targets = TAGS if kind == MULTI else [float(len(t)) / 10 for t in TEXTS]
        rows = [{"text": t, "label": y} for t, y in zip(TEXTS, targets, strict=True)]
        model = _model(kind, labels)
        collator, gradients = model.collator(), []
        for parts in ([rows], [rows[:2], rows[2:]]):
            model.zero_grad()
            for part in parts:
                columns = collator(part)
                model(**columns, num_items_in_batch=len(rows) * len(labels)).loss.backward()
            gradients.append(model.active_programs()[0].slots.grad.clone())
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)

    @pytest.mark.parametrize(("kind", "labels"), [(MULTI, ["good", "phone"]), ("regression", ["stars"])])
    def test_trainer_learns(self, kind: str, labels: list[str], tmp_path) -> None:
        targets = TAGS if kind == MULTI else [float(len(t)) / 10 for t in TEXTS]
        rows = [{"text": t, "label": y} for t, y in zip(TEXTS, targets, strict=True)]
        model = _model(kind, labels)
        before = model.evaluate(rows)["loss"]
        arguments = TrainingArguments(
            tmp_path, remove_unused_columns=False, max_steps=30, per_device_train_batch_size=6, report_to=[],
            save_strategy="no", disable_tqdm=True, eval_strategy="steps", eval_steps=15, use_cpu=True,
        )  # fmt: skip
        trainer = make_trainer(model, arguments, rows, rows)
        trainer.train()
        assert model.evaluate(rows)["loss"] < 0.9 * before
        logged = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
        assert ("eval_micro_f1" in logged) if kind == MULTI else ("eval_mse" in logged)
        assert logged["eval_loss"] > 0

    @pytest.mark.parametrize("kind", [MULTI, "regression"])
    def test_ridge_fits_numbers_and_several_labels(self, kind: str) -> None:
        labels = ["good", "phone"] if kind == MULTI else ["stars"]
        targets = TAGS if kind == MULTI else [float(len(t)) / 10 for t in TEXTS]
        rows = [{"text": t, "label": y} for t, y in zip(TEXTS, targets, strict=True)]
        model = _model(kind, labels, solver="ridge")
        model.fit_mapping(rows)
        found = model.evaluate(rows)
        assert found["accuracy"] == 1 if kind == MULTI else found["r2"] > 0.5

    def test_class_weights_move_the_loss_towards_their_class(self) -> None:
        weighted = _model("single_label_classification", LABELS, class_weight={"negative": 1.0, "positive": 9.0})
        plain = _model("single_label_classification", LABELS)
        for label, factor in (("negative", 1.0), ("positive", 9.0)):
            columns = plain.collator()([{"text": "fine", "label": label}])
            assert weighted(**columns).loss.item() == pytest.approx(factor * plain(**columns).loss.item(), rel=1e-5)


class TestRefused:
    @pytest.mark.parametrize(
        ("weights", "says"),
        [
            ({"negative": 1.0}, "a number for each of the labels"),
            ({"negative": 1.0, "positive": 0}, r"class_weight\['positive'\]: 0"),
            ({"negative": 1.0, "positive": math.nan}, "positive number"),
            ([1.0, 2.0], "a number for each"),
        ],
    )
    def test_class_weights(self, weights: object, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            _model("single_label_classification", LABELS, class_weight=weights)

    def test_an_unknown_problem_type(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'regression'"):
            _model("regresion", LABELS)

    def test_a_logistic_map_of_numbers(self) -> None:
        with pytest.raises(ConfigError, match="LinearConfig.solver.*'logistic' for regression"):
            _model("regression", ["stars"], solver="logistic")

    def test_the_labels_mapping_of_numbers(self) -> None:
        base, tokenizer = tiny("bert-classifier")
        config = ReprogramConfig(mapping="labels", labels=["stars"], problem_type="regression")
        with pytest.raises(ConfigError, match="problem_type.*'regression'.*'linear'"):
            get_reprogram_model(base, config, tokenizer)

    def test_label_smoothing_that_would_lose_the_class_weights_or_the_kind_of_targets(self, tmp_path) -> None:
        """Trainer smooths in a loss of its own, which knows neither."""
        arguments = TrainingArguments(tmp_path, remove_unused_columns=False, label_smoothing_factor=0.1, use_cpu=True)
        weighted = _model("single_label_classification", LABELS, class_weight={"negative": 1.0, "positive": 2.0})
        with pytest.raises(UsageError, match="label_smoothing_factor.*class_weight"):
            make_trainer(weighted, arguments, ROWS)
        with pytest.raises(UsageError, match="label_smoothing_factor.*regression"):
            make_trainer(_model("regression", ["stars"]), arguments, [{"text": "fine", "label": 1.0}])
