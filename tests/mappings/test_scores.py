"""Maps of the base's own scores (`bayesian`, `transport`, `prototype`, `residual`).

Fixture F1 of the reference by hand, an independent formula beside each, what is read and kept, what is refused.
"""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.batch import Readout
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.mappings._scores import likeliest, probabilities
from hf_reprogram.mappings.bayesian import conditional
from hf_reprogram.mappings.linear import ridge
from hf_reprogram.mappings.residual import corrected
from hf_reprogram.mappings.transport import spread_out, transported
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, tiny
from tests.mappings.test_labels import MEMBER, Y, Z


THREE = ["a", "b", "c"]


def model_of(
    family: str = "llama-classifier", classes: int = 5, labels: list[str] | None = None, **mapping: Any
) -> ReprogramModel:
    base, tokenizer = tiny(family)
    if family.endswith("classifier"):  # a head of as many classes as the fixture
        base.score = torch.nn.Linear(base.config.hidden_size, classes, bias=False)
        base.config.num_labels = classes
    config = ReprogramConfig(
        program={"type": "none", "template": "{text}{answer}" if family == "llama" else "{text}"},
        mapping=mapping,
        labels=labels or THREE,
    )
    return get_reprogram_model(base, config, tokenizer)


def fitted(z: np.ndarray = Z, y: np.ndarray = Y, **mapping: Any) -> Any:
    """The mapping after it saw the fixture."""
    made = model_of(**mapping).active_mapping()
    made.fit(torch.from_numpy(z), torch.from_numpy(y))
    return made


def accuracy(mapping: Any) -> float:
    return float((mapping(Readout(torch.from_numpy(Z))).argmax(1).numpy() == Y).mean())


class TestBayesian:
    def test_weights_of_first_places(self) -> None:
        mapping = fitted(type="bayesian", centred=False)
        wanted = [[0.6667, 0.25, 0.2], [0.3333, 0.75, 0], [0, 0, 0], [0, 0, 0.8], [0, 0, 0]]
        np.testing.assert_allclose(mapping.matrix.T.numpy(), wanted, atol=1e-4)
        assert accuracy(mapping) == pytest.approx(0.7)

    def test_weights_of_likely_ones(self) -> None:
        """q = 2 of 5 source labels."""
        mapping = fitted(type="bayesian", centred=False, count="likely", share=0.4)
        wanted = [
            [0.48, 0.2178, 0.1805], [0.2642, 0.694, 0], [0.2558, 0.0882, 0.1248], [0, 0, 0.5957], [0, 0, 0.0991]
        ]  # fmt: skip
        np.testing.assert_allclose(mapping.matrix.T.numpy(), wanted, atol=1e-4)
        assert accuracy(mapping) == pytest.approx(0.6)

    def test_few_labels_make_no_nan(self) -> None:
        """The released code counts int(0.15 * labels) likely ones: none for six labels or fewer, and divides by it."""
        mapping = fitted(Z[:7], Y[:7], type="bayesian", labels=["a", "b"], count="likely")
        assert mapping.matrix.isfinite().all() and bool(mapping.matrix.any())

    def test_a_share_that_nothing_reads(self) -> None:
        with pytest.raises(ConfigError, match="BayesianConfig.share: 0.4 with count='first'.*count='likely'"):
            model_of(type="bayesian", share=0.4)

    def test_is_bayes_rule_where_nothing_is_smoothed(self) -> None:
        counts = np.array([[3.0, 1, 1], [1, 2, 0], [0, 0, 2]])
        found = conditional(counts, 0.0)
        posterior = counts / counts.sum(1, keepdims=True)  # p(c | k)
        np.testing.assert_allclose(found, posterior / posterior.sum(0))


class TestTransport:
    def test_the_plan_of_the_reference(self) -> None:
        cost = 1 - conditional(np.array([[3.0, 1, 1], [1, 2, 0], [0, 0, 2]]), 1.0)
        plan = transported(np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3]), cost)
        np.testing.assert_allclose(plan, [[0.4, 0, 0.1], [0, 0.3, 0], [0, 0, 0.2]], atol=1e-9)
        assert (plan * cost).sum() == pytest.approx(0.328333, abs=1e-6)

    def test_is_an_assignment_where_all_weigh_the_same(self) -> None:
        """A vertex of the polytope of doubly stochastic matrices is a permutation."""
        from scipy.optimize import linear_sum_assignment

        cost = np.random.default_rng(0).random((6, 6))
        plan = transported(np.full(6, 1 / 6), np.full(6, 1 / 6), cost)
        rows, columns = linear_sum_assignment(cost)
        assert (plan * cost).sum() == pytest.approx(cost[rows, columns].mean())

    def test_a_part_of_the_mass_leaves_the_dearest_over(self) -> None:
        a = b = np.array([0.5, 0.5])
        plan = transported(a, b, np.array([[0.0, 9.0], [9.0, 1.0]]), mass=0.5)
        np.testing.assert_allclose(plan, [[0.5, 0], [0, 0]], atol=1e-9)

    def test_the_plan_of_the_reference_with_entropy(self) -> None:
        """An independent way: the plan is diag(u) exp(-cost / e) diag(v)."""
        cost = 1 - conditional(np.array([[3.0, 1, 1], [1, 2, 0], [0, 0, 2]]), 1.0)
        a, b = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.3])
        plan = spread_out(a, b, cost, 0.1)
        assert (plan * cost).sum() == pytest.approx(0.333974, abs=1e-6)
        kernel, v = np.exp(-cost / 0.1), np.ones(3)
        for _ in range(1000):
            u = a / (kernel @ v)
            v = b / (kernel.T @ u)
        np.testing.assert_allclose(plan, u[:, None] * kernel * v, atol=1e-6)
        mapping = fitted(type="transport", centred=False, entropy=0.1)
        np.testing.assert_allclose(mapping.matrix.T.numpy()[[0, 1, 3]], plan / plan.sum(0), atol=1e-6)

    def test_entropy_that_cannot_be_had(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigError, match="entropy: 0.1 with mass=0.5.*one of the two"):
            model_of(type="transport", entropy=0.1, mass=0.5)
        with pytest.raises(DataError, match="entropy=1e-06.*a larger entropy, or 0"):
            fitted(type="transport", entropy=1e-6)
        monkeypatch.setitem(sys.modules, "ot", None)
        with pytest.raises(ConfigError, match=r"POT is not usable.*hf-reprogram\[transport\].*entropy=0"):
            fitted(type="transport", entropy=0.1)

    def test_a_solver_that_fails_is_our_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import scipy.optimize

        failed = SimpleNamespace(x=None, message="iteration limit")
        monkeypatch.setattr(scipy.optimize, "linprog", lambda *args, **options: failed)
        with pytest.raises(DataError, match=r"no transport plan \(iteration limit\)"):
            fitted(type="transport")

    def test_labels_for_which_no_mass_is_left_are_named(self) -> None:
        with pytest.warns(
            UserWarning, match=r"mass: 0\.3 leaves no source label for \['a'\], whose score is 0.*mass=1"
        ):
            mapping = fitted(type="transport", mass=0.3)
        assert not mapping.matrix[0].any()

    def test_each_label_s_weights_sum_to_one(self) -> None:
        mapping = fitted(type="transport", centred=False)
        np.testing.assert_allclose(mapping.matrix.sum(1).numpy(), 1.0, atol=1e-6)
        np.testing.assert_allclose(mapping.matrix.T.numpy()[[2, 4]], 0.0)  # never first


class TestPrototype:
    def test_the_means_and_their_scores(self) -> None:
        mapping = fitted(type="prototype", standardised=False)
        wanted = [[0.6, 0.05, 0.1, -0.5, -0.1], [-0.4, 1.1333, -0.0667, -0.5, -0.1]]
        np.testing.assert_allclose(mapping.matrix[:2].numpy(), wanted, atol=1e-4)
        assert accuracy(mapping) == pytest.approx(0.7)

    @pytest.mark.parametrize("standardised", [True, False])
    def test_is_the_nearest_mean(self, standardised: bool) -> None:
        mapping = fitted(type="prototype", standardised=standardised)
        z = (Z - Z.mean(0)) / (Z.std(0) if standardised else 1.0)
        means = np.stack([z[c == Y].mean(0) for c in range(3)])
        nearest = np.square(z[:, None] - means).sum(2).argmin(1)
        assert mapping(Readout(torch.from_numpy(Z))).argmax(1).tolist() == nearest.tolist()

    def test_the_shrunk_shape_is_a_linear_discriminant(self) -> None:
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        rng = np.random.default_rng(0)
        y = np.repeat([0, 1, 2], 4000)  # as many of each: no priors
        z = rng.normal(size=(12000, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=(3, 5))[y]
        mapping = fitted(z, y, type="prototype", shape="shrunk", standardised=False)
        theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(z, y).predict(z)
        ours = mapping(Readout(torch.from_numpy(z))).argmax(1).numpy()
        assert (ours == theirs).mean() > 0.99  # what is left is the little that Ledoit and Wolf shrink

    def test_labels_of_different_size_and_one_row(self) -> None:
        """ProtoVerb's released code stacks rows by label, and fails where their numbers differ."""
        mapping = fitted(Z[[0, 1, 2, 4, 7]], np.array([0, 0, 0, 1, 2]), type="prototype")
        assert mapping.matrix.isfinite().all()


class TestPrototypeOfStates:
    STATE = {"type": "prototype", "on": "state", "pool": "mean"}
    LOSS = 0.455700  # of M§A.14: vectors [1 0], [.8 .6], [0 1], [.6 .8] against prototypes e1 and e2

    def test_a_loss_by_hand(self) -> None:
        """Two labels of a row each, e1 and e2 but for their length; then the vectors of the reference, longer too."""
        mapping = model_of("bert-encoder", labels=LABELS, **self.STATE, standardised=False).active_mapping()
        states = torch.zeros(6, mapping.size)
        states[:, :2] = torch.tensor([[9.0, 0.0], [0.0, 0.3], [2.0, 0.0], [8.0, 6.0], [0.0, 1.0], [0.06, 0.08]])
        mapping.fit(states[:2], torch.tensor([0, 1]))
        logits = mapping(Readout(states[2:], kind="state"))
        assert mapping.loss(logits, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(self.LOSS, abs=1e-6)

    @pytest.mark.parametrize(("family", "pool"), [("bert-encoder", "mean"), ("bert-encoder", "statistics"),
                                                  ("llama", "answer")])  # fmt: skip
    def test_is_the_nearest_mean_of_unit_vectors(self, family: str, pool: str) -> None:
        model = model_of(family, labels=LABELS, type="prototype", on="state", pool=pool, standardised=False)
        model.fit_mapping(ROWS)
        z = torch.nn.functional.normalize(model.frozen_rows(ROWS).values, dim=1).double()
        y = torch.tensor([LABELS.index(row["label"]) for row in ROWS])
        means = torch.stack([z[y == c].mean(0) for c in range(2)])
        nearest = torch.cdist(z, means).argmin(1).tolist()
        assert [LABELS.index(answer["label"]) for answer in model.predict(ROWS)] == nearest
        assert model.explain()["mapping"] == {"type": "prototype", "reads": f"state, {pool}"}

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"on": "state", "sources": 3}, "PrototypeConfig.sources: 3 with on='state'"),
            ({"on": "state", "centred": False}, "PrototypeConfig.centred: False with on='state'.*leave it out"),
            ({"pool": "mean"}, "PrototypeConfig.pool: 'mean' with on='auto'.*on='state'"),
            ({"on": "state"}, "answer slot"),
            ({}, "reads classes or rows"),
        ],
    )
    def test_what_is_refused(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            model_of("bert-encoder", labels=LABELS, type="prototype", **options)


class TestResidual:
    def test_the_reference_s_numbers(self) -> None:
        """M§A.13: gamma .254795; leave-one-out error .279591 and .205748 at 1 and 10, summed over the labels."""
        speaking = np.eye(5)[[0, 1, 3]]
        errors = [corrected(Z, MEMBER, speaking, [penalty])[2:] for penalty in (1.0, 10.0)]
        assert [gamma for gamma, _ in errors] == pytest.approx([0.254795] * 2, abs=1e-6)
        plain = [ridge(Z, MEMBER, [penalty])[3] for penalty in (1.0, 10.0)]
        # The reference's errors of plain ridge, .280133 and .227910, tell the unit.
        unit = 0.280133 / plain[0]
        assert [plain[1] * unit] == pytest.approx([0.227910], abs=1e-5)
        assert [error * unit for _, error in errors] == pytest.approx([0.279591, 0.205748], abs=1e-5)

    def test_a_large_penalty_leaves_the_fixed_map(self) -> None:
        matrix, bias, gamma, _ = corrected(Z, MEMBER, np.eye(5)[[0, 1, 3]], [1e9])
        said = Z[:, [0, 1, 3]]
        scores = Z @ matrix.T + bias + gamma * said
        fixed = gamma * (said - said.mean(0)) + MEMBER.mean(0)
        np.testing.assert_allclose(scores, fixed, atol=1e-6)

    def test_a_small_penalty_gives_the_whole_linear_map(self) -> None:
        matrix, bias, gamma, _ = corrected(Z, MEMBER, np.eye(5)[[0, 1, 3]], [1e-9])
        plain, offset, *_ = ridge(Z, MEMBER, [1e-9])
        scores = Z @ matrix.T + bias + gamma * Z[:, [0, 1, 3]]
        np.testing.assert_allclose(scores, Z @ plain.T + offset, atol=1e-5)

    def test_words_that_point_the_wrong_way_count_for_nothing(self) -> None:
        assert corrected(-Z, MEMBER, np.eye(5)[[0, 1, 3]])[2] == 0.0

    def test_words_are_kept_and_read(self) -> None:
        words = {"negative": " bad", "positive": " good"}
        model = model_of("llama", labels=LABELS, type="residual", words=words, sources=3)
        mapping, ids = model.active_mapping(), model.peft_config["default"].mapping.known
        z = np.zeros((6, mapping.size))
        z[:, 7] = 9.0  # the base says nothing but this
        z[:3, ids[0]], z[3:, ids[1]] = 1.0, 1.0
        mapping.fit(torch.from_numpy(z), torch.tensor([0, 0, 0, 1, 1, 1]))
        assert set(ids) <= set(mapping.indices.tolist()) and len(mapping.indices) == 3
        assert mapping.reading().ids == tuple(mapping.indices.tolist())
        read = torch.from_numpy(z[:, mapping.indices.numpy()])
        assert mapping(Readout(read)).argmax(1).tolist() == [0, 0, 0, 1, 1, 1]

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"words": {"negative": " bad", "positive": " bad"}}, "a word of its own"),
            (
                {"words": {"negative": " bad", "positive": " good"}, "sources": 1},
                "sources: 1 with 2 words.*at least 2",
            ),
            ({"words": {"negative": " bad", "positive": " good"}, "on": "classes"}, "on='vocabulary'"),
            ({"words": {"negative": " bad", "positive": [" good", " bad"]}}, "a word of its own"),
            ({"words": {"negative": " bad", "positive": []}}, "at least one word"),
            ({"sources": 1}, "fewer target labels|at most"),
        ],
    )
    def test_what_is_refused(self, options: dict, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            model_of("llama", labels=LABELS, type="residual", **options)


class TestAll:
    TYPES = ("bayesian", "transport", "prototype", "residual")

    @pytest.mark.parametrize("kind", TYPES)
    def test_an_offset_of_an_output_changes_nothing(self, kind: str) -> None:
        """M§A.11: a fixed offset of each output took plain counts from 74 to 52 %; centred they do not see it."""
        offset = np.array([0.0, 30.0, -20.0, 5.0, 80.0])
        z = Z + 0.1 * np.random.default_rng(0).random(Z.shape)  # no two alike: rounding would choose between them
        plain, moved = fitted(z, type=kind), fitted(z + offset, type=kind)
        torch.testing.assert_close(
            plain(Readout(torch.from_numpy(z))), moved(Readout(torch.from_numpy(z + offset))), atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize("kind", [*TYPES, "auto", "labels"])
    def test_scores_that_want_to_be_centred_are_named(self, kind: str) -> None:
        """Means 1.4, 1.2, .4, .5, .1 deviate by .4956, the outputs by .8189 in the mean: rho .605; 0, 1, 3 come first.
        With the means taken out rho is 0."""
        name = f"{kind.title()}Config"
        with pytest.warns(UserWarning, match=rf"{name}\.centred: .* 0\.605 \(rho\).*3 of 5 come first.*centred=True"):
            fitted(type=kind, centred=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            fitted(type=kind)
            fitted(Z - Z.mean(0), type=kind, centred=False)

    @pytest.mark.parametrize("kind", TYPES)
    def test_an_output_that_never_moves_counts_for_nothing(self, kind: str) -> None:
        z = Z.copy()
        z[:, 4] = 3.0
        mapping = fitted(z, type=kind)
        assert mapping.matrix.isfinite().all()
        assert accuracy(mapping) >= 0.5

    @pytest.mark.parametrize("kind", [*TYPES, "auto", "labels", "linear"])
    @pytest.mark.parametrize(
        ("z", "y", "says"),
        [
            (np.where(np.arange(10)[:, None] == 4, np.nan, Z), Y, r"rows\)\[4\].*NaN"),
            (Z[:7], Y[:7], r"no row of \['c'\].*leave them out of the labels"),
        ],
    )
    def test_rows_that_will_not_do(self, kind: str, z: np.ndarray, y: np.ndarray, says: str) -> None:
        with pytest.raises(DataError, match=says):
            fitted(z, y, type=kind, **({"on": "classes"} if kind == "linear" else {}))

    @pytest.mark.parametrize("kind", [*TYPES, "auto", "labels", "linear"])
    def test_a_base_that_gives_the_same_for_all_rows(self, kind: str) -> None:
        """A user is told; a search that meets such a program goes on with a map that says nothing."""
        options = {"type": kind, **({"on": "classes"} if kind == "linear" else {})}
        assert fitted(np.ones_like(Z), Y, **options)(Readout(torch.ones(1, 5))).isfinite().all()
        model = model_of(labels=LABELS, **options)
        with pytest.raises(DataError, match="the base gives the same for all 4 rows.*template"):
            model.fit_mapping([{"text": "so good", "label": label} for label in LABELS] * 2)

    ONE_EACH = [
        *({"type": kind} for kind in (*TYPES, "auto", "labels", "similarity")),
        {"type": "bayesian", "count": "likely"}, {"type": "transport", "entropy": 0.1},
        {"type": "labels", "soft": True}, {"type": "labels", "method": "assignment"},
        {"type": "prototype", "on": "state", "pool": "mean"},
        *({"type": "linear", "on": "classes", "solver": solver} for solver in ("ridge", "logistic")),
    ]  # fmt: skip

    @pytest.mark.parametrize("mapping", ONE_EACH, ids=lambda m: "-".join(map(str, m.values())))
    def test_a_row_of_each_label_is_enough(self, mapping: dict[str, Any]) -> None:
        few = [
            {"text": text, "label": label}
            for text, label in zip(("so good", "a bad day", "my phone"), THREE, strict=True)
        ]
        model = model_of(classes=7, **mapping, **({"per_label": 1} if mapping["type"] == "similarity" else {}))
        model.fit_mapping(few)
        assert model.score(few).isfinite().all()
        # A ridge, or nearest mean, of three rows that differ tells them apart; first places may be the same for all.
        if mapping["type"] in ("prototype", "linear"):
            assert [answer["label"] for answer in model.predict(few)] == THREE

    def test_a_row_of_each_label_makes_a_round_prototype(self) -> None:
        few = [0, 4, 8]
        assert sorted(Y[few].tolist()) == [0, 1, 2]
        shrunk, plain = (fitted(Z[few], Y[few], type="prototype", shape=shape) for shape in ("shrunk", "round"))
        torch.testing.assert_close(shrunk.matrix, plain.matrix)
        assert bool(plain.matrix.any())

    @pytest.mark.parametrize("kind", TYPES)
    def test_of_a_vocabulary_it_keeps_the_likeliest_and_reads_no_more(self, kind: str) -> None:
        model = model_of("llama", labels=LABELS, type=kind, sources=4)
        rows = [
            {"text": text, "label": label} for text, label in (("so good", LABELS[1]), ("a bad day", LABELS[0]))
        ] * 4
        assert model.active_mapping().reading().ids is None
        model.fit_mapping(rows)
        assert len(model.active_mapping().reading().ids) == 4
        assert {answer["label"] for answer in model.predict(rows)} <= set(LABELS)

    def test_more_sources_than_there_are(self) -> None:
        with pytest.raises(ConfigError, match="sources: 6, and there are 5.*at most 5"):
            model_of(type="bayesian", sources=6)

    def test_numbers_are_for_linear(self) -> None:
        base, tokenizer = tiny("llama-classifier")
        config = ReprogramConfig(mapping={"type": "bayesian"}, labels=["x"], problem_type="regression")
        with pytest.raises(ConfigError, match="'regression' with the mapping 'bayesian'.*'linear'"):
            get_reprogram_model(base, config, tokenizer)


def test_the_likeliest_and_those_that_must_stay() -> None:
    z = np.log(np.array([[0.5, 0.3, 0.1, 0.1], [0.5, 0.1, 0.3, 0.1]]))
    assert likeliest(z, 2).tolist() == [1, 2]  # 0 and 3 never move
    assert likeliest(z, 2, [3]).tolist() == [1, 3]
    np.testing.assert_allclose(probabilities(z + 700.0), np.exp(z))
