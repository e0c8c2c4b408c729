"""The linear mapping's estimators by hand (M§A.9, A.10; fixture F1)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.mappings.linear import LinearConfig, fixed_penalty, left_out, logistic, ridge
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LABELS, LANGUAGE_MODELS, ROWS, logits_of, tiny


Z = np.array(
    [
        [3, 1, 0, 0, 0], [2, 0, 1, 0, 0], [3, 2, 0, 0, 0], [0, 2, 1, 0, 0], [2, 1, 0, 0, 0],
        [1, 3, 0, 0, 0], [0, 3, 1, 0, 0], [1, 0, 0, 2, 0], [2, 0, 1, 0, 0], [0, 0, 0, 3, 1],
    ],
    dtype=float,
)  # fmt: skip
Y = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize(("penalty", "error"), [(0.1, 0.344422), (1.0, 0.280133), (10.0, 0.227910)])
def test_leave_one_out_error(penalty: float, error: float) -> None:
    assert ridge(Z, np.eye(3)[Y], [penalty])[3] == pytest.approx(error, abs=1e-6)


def test_leave_one_out_error_is_what_refitting_without_each_row_gives() -> None:
    target = np.eye(3)[Y]
    errors = []
    for i in range(len(Z)):
        keep = np.arange(len(Z)) != i
        z, t = Z[keep] - Z[keep].mean(0), target[keep] - target[keep].mean(0)
        b = np.linalg.solve(z.T @ z + np.eye(5), z.T @ t)
        errors.append((target[i] - (Z[i] - Z[keep].mean(0)) @ b - target[keep].mean(0)) ** 2)
    assert ridge(Z, np.eye(3)[Y], [1.0])[3] == pytest.approx(np.mean(errors), abs=1e-12)


@pytest.mark.parametrize(("penalty", "trace", "right"), [(0.1, 5.4554, 0.8), (1.0, 4.1739, 0.7), (10.0, 2.6377, 0.7)])
def test_leverages_and_rows_told_right(penalty: float, trace: float, right: float) -> None:
    """A row's own share h in its fit follows from y - yhat = (1 - h) (y - what the others say)."""
    target = np.eye(3)[Y]
    matrix, bias, *_ = ridge(Z, target, [penalty])
    fit = Z @ matrix.T + bias
    h = 1 - (target - fit) / (target - left_out(Z, target, [penalty]))
    np.testing.assert_allclose(h, h[:, :1].repeat(3, 1), atol=1e-9)  # of each output the same
    assert h[:, 0].sum() == pytest.approx(trace, abs=1e-4)
    assert (fit.argmax(1) == Y).mean() == pytest.approx(right)


def test_solution() -> None:
    matrix, bias, _, _ = ridge(Z, np.eye(3)[Y], [1.0])
    assert matrix[:, 0].tolist() == pytest.approx([0.1919, -0.1484, -0.0435], abs=1e-4)
    assert bias.tolist() == pytest.approx([0.0463, 0.5116, 0.4422], abs=1e-4)
    assert ((Z @ matrix.T + bias).argmax(1) == Y).mean() == pytest.approx(0.7)


def test_the_penalty_with_the_least_error_is_chosen_from_the_grid() -> None:
    scale = np.square(Z - Z.mean(0)).sum() / 5
    errors = {10.0**j * scale: ridge(Z, np.eye(3)[Y], [10.0**j * scale])[3] for j in range(-4, 4)}
    assert ridge(Z, np.eye(3)[Y])[2] == pytest.approx(min(errors, key=errors.get))


def test_two_rows_get_a_fixed_penalty() -> None:
    matrix, bias, _, _ = ridge(np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2))
    assert np.isfinite(matrix).all() and np.isfinite(bias).all()


def test_one_row_per_label_gets_a_fixed_penalty() -> None:
    """Leaving one out leaves no row of its label: its error falls with the penalty and would choose the largest."""
    z, target = Z[[0, 4, 7]], np.eye(3)
    scale = np.square(z - z.mean(0)).sum() / 3
    assert ridge(z, target)[2] == pytest.approx(1000 * scale)
    base, tokenizer = tiny("bert")
    config = ReprogramConfig(
        program={"type": "none", "template": "{text}"},
        mapping=LinearConfig(on="state", pool="mean"),
        labels=list("abc"),
    )
    mapping = get_reprogram_model(base, config, tokenizer).active_mapping()
    z = torch.randn(6, mapping.matrix.shape[1], generator=torch.Generator().manual_seed(0))
    for rows, penalties in ((3, [fixed_penalty(z[:3].double().numpy())]), (6, None)):
        mapping.fit(z[:rows], torch.arange(rows) % 3)
        matrix, *_ = ridge(z[:rows].double().numpy(), np.eye(3)[np.arange(rows) % 3], penalties)
        np.testing.assert_allclose(mapping.matrix.numpy(), matrix, atol=1e-6)


class TestWeights:
    """M§A.10: rows times sqrt(N / (C n_c)), that is class weights of N / (C n_c)."""

    def test_by_hand(self) -> None:
        """Two rows of one label and one of another: weights .75, .75, 1.5; means 2.5 and .5; Z'WZ 8.25, Z'WY 2.25;
        with a penalty of .75 the slope is 2.25 / 9 and the bias .5 - 2.5 / 4."""
        z, target, weights = np.array([[0.0], [2.0], [4.0]]), np.eye(2)[[0, 0, 1]], np.array([0.75, 0.75, 1.5])
        matrix, bias, *_ = ridge(z, target, [0.75], weights)
        np.testing.assert_allclose(matrix, [[-0.25], [0.25]])
        np.testing.assert_allclose(bias, [1.125, -0.125])
        assert fixed_penalty(z, weights) == pytest.approx(0.1 * 8.25)

    def test_the_error_is_that_of_refits_without_each_row(self) -> None:
        target, weights = np.eye(3)[Y], np.array([10 / 12, 10 / 9, 10 / 9])[Y]
        errors = []
        for i in range(len(Z)):
            keep = np.arange(len(Z)) != i
            w = weights[keep] / weights[keep].sum()
            z, t = Z[keep] - w @ Z[keep], target[keep] - w @ target[keep]
            b = np.linalg.solve(z.T @ (weights[keep, None] * z) + np.eye(5), z.T @ (weights[keep, None] * t))
            errors.append(weights[i] * (target[i] - (Z[i] - w @ Z[keep]) @ b - w @ target[keep]) ** 2)
        assert ridge(Z, target, [1.0], weights)[3] == pytest.approx(np.mean(errors), abs=1e-12)

    def test_the_same_for_all_rows_is_none(self) -> None:
        plain, all_alike = ridge(Z, np.eye(3)[Y]), ridge(Z, np.eye(3)[Y], None, np.full(len(Z), 7.0))
        np.testing.assert_allclose(all_alike[0], plain[0])
        np.testing.assert_allclose(all_alike[1], plain[1])

    @pytest.mark.parametrize("solver", ["ridge", "logistic"])
    def test_those_of_the_config_reach_the_fit(self, solver: str) -> None:
        base, tokenizer = tiny("bert")
        given = {"a": 1.0, "b": 4.0, "c": 9.0}
        config = ReprogramConfig(
            program={"type": "none", "template": "{text}"},
            mapping=LinearConfig(pool="mean", solver=solver),
            labels=list(given),
            class_weight=given,
        )
        mapping = get_reprogram_model(base, config, tokenizer).active_mapping()
        z = torch.randn(30, mapping.matrix.shape[1], generator=torch.Generator().manual_seed(0))
        y = np.arange(30) % 3
        mapping.fit(z, torch.from_numpy(y))
        weights, z = np.array(list(given.values()))[y], z.double().numpy()
        if solver == "ridge":
            matrix, bias, *_ = ridge(z, np.eye(3)[y], None, weights)
        else:
            matrix, bias = self._theirs(z, y, weights)
        np.testing.assert_allclose(mapping.matrix.numpy(), matrix, atol=1e-4)
        np.testing.assert_allclose(mapping.bias.numpy(), bias, atol=1e-4)

    @staticmethod
    def _theirs(z: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(z)
        found = LogisticRegression(C=0.1, max_iter=2000).fit(scaler.transform(z), y, weights)
        matrix = found.coef_ / scaler.scale_
        return matrix, found.intercept_ - matrix @ scaler.mean_

    @pytest.mark.parametrize(
        ("mapping", "program", "warns"),
        [
            ({"type": "bayesian"}, {"type": "none"}, True),
            ({"type": "linear", "on": "classes"}, {"type": "none"}, False),
            ({"type": "bayesian"}, {"type": "prompt", "template": "{prompt:2} {text}"}, False),  # its loss heeds them
        ],
    )
    def test_where_nothing_heeds_them_it_is_said(self, mapping: dict[str, Any], program: Any, warns: bool) -> None:
        base, tokenizer = tiny("bert-classifier")
        config = ReprogramConfig(
            program=program, mapping=mapping, labels=LABELS, class_weight={LABELS[0]: 1.0, LABELS[1]: 9.0}
        )
        model = get_reprogram_model(base, config, tokenizer)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            model.fit_mapping(ROWS)
        said = [str(w.message) for w in caught if "class_weight" in str(w.message)]
        assert bool(said) == warns
        assert all("'bayesian' for single_label_classification does not heed it" in each for each in said)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_folds_the_standardisation_in(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    y = np.minimum(Y, classes - 1)
    matrix, bias = logistic(Z, y, 0.5)
    scaled = StandardScaler().fit_transform(Z)
    expected = LogisticRegression(C=0.5, max_iter=2000).fit(scaled, y).predict_proba(scaled)
    ours = torch.softmax(torch.from_numpy(Z @ matrix.T + bias), 1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("family", LANGUAGE_MODELS)
@pytest.mark.parametrize(
    "options",
    [
        {"on": "state", "pool": "mean"},
        {"on": "state", "pool": "first"},
        {"on": "state", "pool": "answer", "solver": "logistic"},
        {"on": "rows", "words": [" good", " bad", " fine"]},
        {"on": "source"},
        {"on": "state", "solver": "gradient", "start": "ridge"},
        {"on": "state", "solver": "gradient", "start": "logistic"},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()),
)
def test_every_reading_fits_what_it_can_fit(options: dict, family: str) -> None:
    base, tokenizer = tiny(family)
    config = ReprogramConfig(
        program={"type": "none", "template": "{text} so{answer}"}, mapping=LinearConfig(**options), labels=LABELS
    )
    model = get_reprogram_model(base, config, tokenizer)
    if options.get("pool") == "first" and model.backbone.facts.answer == "last":  # it has seen one token, of all rows
        with pytest.raises(DataError, match="the base gives the same for all .* rows.*template"):
            model.fit_mapping(ROWS)
        return
    model.fit_mapping(ROWS)
    logits = logits_of(model, ROWS)
    columns = model.collator()([{**row, "label": None} for row in ROWS])
    z = model.reprogrammed.readout(columns, model.active_mapping().reading()).double().numpy()
    y = np.array([LABELS.index(row["label"]) for row in ROWS])
    matrix, bias = logistic(z, y, 0.1) if "logistic" in options.values() else ridge(z, np.eye(2)[y])[:2]
    torch.testing.assert_close(logits.double(), torch.from_numpy(z @ matrix.T + bias), atol=1e-4, rtol=1e-4)


def test_a_label_without_rows_is_an_error() -> None:
    base, tokenizer = tiny("llama")
    config = ReprogramConfig(
        program={"type": "none", "template": "{text}{answer}"}, mapping="linear", labels=[*LABELS, "mixed"]
    )
    model = get_reprogram_model(base, config, tokenizer)
    with pytest.raises(DataError, match="no row of \\['mixed'\\]"):
        model.fit_mapping(ROWS)


@pytest.mark.parametrize(
    ("options", "where"),
    [({"solver": "logistic"}, "solver"), ({"solver": "gradient", "start": "logistic"}, "start")],
)
def test_a_logistic_map_is_of_one_label_to_a_row(options: dict, where: str) -> None:
    base, tokenizer = tiny("bert")
    config = ReprogramConfig(
        program={"type": "none", "template": "{text}"},
        mapping=LinearConfig(on="state", pool="mean", **options),
        labels=LABELS,
        problem_type="multi_label_classification",
    )
    with pytest.raises(ConfigError, match=f"LinearConfig.{where}: 'logistic' for multi_label"):
        get_reprogram_model(base, config, tokenizer)


def test_parts_are_for_pooled_states_that_stand_in_order() -> None:
    with pytest.raises(ConfigError, match=r"LinearConfig\.parts: 4 with on='state', pool='first'"):
        ReprogramConfig(mapping=LinearConfig(pool="first", parts=4), labels=LABELS).validate()
    config = ReprogramConfig(mapping=LinearConfig(pool="mean", parts=4), labels=LABELS)
    base, processor = tiny("ast-classifier")
    with pytest.raises(ConfigError, match="4 of a ASTForAudioClassification, whose states are no moments of a sound"):
        get_reprogram_model(base, config, processing_class=processor)


@pytest.mark.parametrize("pool", ["mean", "statistics"])
def test_parts_of_a_text_follow_each_other(pool: str) -> None:
    """Six positions, the special ones among them, in four parts: of 2, 1, 2 and 1; padding changes nothing."""
    base, tokenizer = tiny("bert")
    config = ReprogramConfig(mapping=LinearConfig(pool=pool, parts=4), labels=LABELS)
    model = get_reprogram_model(base, config, processing_class=tokenizer)
    rows = ["i love this book", "i love this book and would buy it again"]
    columns = model.collator()(rows)
    reading = model.active_mapping().reading()
    found = model.reprogrammed.readout(columns, reading)[0].reshape(4, -1)
    states = base.bert(**{k: columns[k][:1, :6] for k in ("input_ids", "attention_mask")}).last_hidden_state[0]
    for part, own in zip(found, (states[:2], states[2:3], states[3:5], states[5:]), strict=True):
        assert torch.allclose(part[:32], own.mean(0), atol=1e-5)
        assert len(part) == (32 if pool == "mean" else 64)
    with pytest.raises(UsageError, match="parts: 4, and a row has 3 positions"):
        model.reprogrammed.readout(model.collator()(["good"]), reading)


class TestRank:
    """matrix = left @ right, of fewer numbers than the matrix has."""

    THREE = ["a", "b", "c"]

    def _made(self, **options: Any) -> Any:
        base, tokenizer = tiny("llama")
        config = ReprogramConfig(
            program={"type": "none", "template": "{text}{answer}"},
            mapping=LinearConfig(on="state", solver="gradient", **options),
            labels=self.THREE,
        )
        return get_reprogram_model(base, config, tokenizer)

    def test_it_begins_as_the_nearest_product_to_ridge(self) -> None:
        rows = [
            {"text": text, "label": self.THREE[i % 3]} for i, text in enumerate(("good", "bad film", "so", "day") * 3)
        ]
        whole, low = (self._made(start="ridge", rank=rank) for rank in (None, 2))
        for model in (whole, low):
            model.fit_mapping(rows)
        matrix = whole.active_mapping().whole().detach()
        u, sizes, v = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(low.active_mapping().whole().detach(), u[:, :2] * sizes[:2] @ v[:2])
        # One-hot labels sum to one, so the three rows of ridge's matrix sum to nothing: rank 2 loses nothing.
        torch.testing.assert_close(logits_of(low, rows), logits_of(whole, rows), atol=1e-4, rtol=1e-4)

    def test_from_random_numbers_both_parts_learn(self) -> None:
        model = self._made(rank=1)
        mapping = model.active_mapping()
        assert {name: tuple(p.shape) for name, p in mapping.named_parameters()} == {
            "left": (3, 1), "right": (1, model.backbone.state_size("answer", None, 1)), "bias": (3,)
        }  # fmt: skip
        model(**model.collator()([{"text": "good", "label": "a"}, {"text": "bad", "label": "b"}])).loss.backward()
        assert all(bool(p.grad.any()) for p in mapping.parameters())

    @pytest.mark.parametrize(("options", "says"), [
        ({"rank": 3}, "rank: 3 of a matrix of 3 x .*below 3.*None trains it whole"),
        ({"rank": 1, "solver": "ridge"}, "rank: 1 with solver='ridge'.*solver='gradient'"),
    ])  # fmt: skip
    def test_where_it_saves_nothing_it_is_refused(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            LinearConfig(**options) if "solver" in options else self._made(**options)
