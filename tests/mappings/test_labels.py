"""`labels`: hand-computed counts and groups (M§A.1, A.2, fixture F1), and what is read once the map is fitted."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_reprogram.batch import Readout
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError
from hf_reprogram.mappings.labels import assigned, frequencies, greedy
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, logits_of, tiny


# Fixture F1 of the reference: ten rows, five source labels, three target labels.
Z = np.array(
    [[3, 1, 0, 0, 0], [2, 0, 1, 0, 0], [3, 2, 0, 0, 0], [0, 2, 1, 0, 0], [2, 1, 0, 0, 0], [1, 3, 0, 0, 0],
     [0, 3, 1, 0, 0], [1, 0, 0, 2, 0], [2, 0, 1, 0, 0], [0, 0, 0, 3, 1]], dtype=float,
)  # fmt: skip
Y = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
MEMBER = np.eye(3)[Y]


def _model(family: str = "llama-classifier", labels: list[str] | None = None, **options: object) -> ReprogramModel:
    base, tokenizer = tiny(family)
    template = "{prompt:2} {text}" if family.endswith("classifier") else "{prompt:2} {text}{answer}"
    config = ReprogramConfig(
        program={"type": "prompt", "template": template},
        mapping={"type": "labels", **options},
        labels=labels or LABELS,
    )
    return get_reprogram_model(base, config, tokenizer)


class TestByHand:
    def test_counts_of_first_places(self) -> None:
        found = frequencies(Z, MEMBER, soft=False)
        assert found.tolist() == [[3, 1, 1], [1, 2, 0], [0, 0, 0], [0, 0, 2], [0, 0, 0]]

    def test_greedy_takes_seven_of_ten(self) -> None:
        counts = frequencies(Z, MEMBER, soft=False)
        chosen = greedy(counts, 1)
        assert chosen.tolist() == [[0], [1], [3]]
        assert sum(counts[k, c] for c, (k,) in enumerate(chosen)) == 7
        assert (Z[:, chosen[:, 0]].argmax(1) == Y).mean() == 0.7

    def test_the_best_assignment_takes_seven_too(self) -> None:
        counts = frequencies(Z, MEMBER, soft=False)
        chosen = assigned(counts, 1)
        assert sum(counts[k, c] for c, (k,) in enumerate(chosen)) == 7 and chosen.tolist() == [[0], [1], [3]]

    def test_ties_go_to_the_lowest_index(self) -> None:
        assert greedy(np.zeros((4, 2)), 2).tolist() == [[0, 1], [2, 3]]

    def test_soft_counts_sum_probabilities_and_share_each_source_label_out(self) -> None:
        z = np.log(np.array([[0.7, 0.3], [0.6, 0.4]]))
        found = frequencies(z, np.eye(2), soft=True)
        np.testing.assert_allclose(found, [[0.7 / 1.3, 0.6 / 1.3], [0.3 / 0.7, 0.4 / 0.7]])

    def test_a_label_that_no_row_has_keeps_its_column(self) -> None:
        """M§0 1: columns come from the labels of the config, not from those in the rows."""
        assert frequencies(Z[:5], np.eye(3)[[0, 0, 2, 2, 2]], soft=False).sum(0).tolist() == [2, 0, 3]

    @pytest.mark.parametrize(
        ("options", "score"),
        [
            ({}, 2.5),
            ({"reduce": "sum"}, 5.0),
            ({"reduce": "logsumexp"}, float(np.log(np.exp(1) + np.exp(4)))),
            ({"scores": "probabilities"}, float(np.log((np.exp(1) + np.exp(4)) / 2 / np.exp([1, 4, 0]).sum()))),
            (
                {"scores": "probabilities", "reduce": "sum"},
                float(np.log((np.exp(1) + np.exp(4)) / np.exp([1, 4, 0]).sum())),
            ),
        ],
    )
    def test_how_source_labels_become_a_score(self, options: dict, score: float) -> None:
        mapping = _model(method="random", centred=False, per_label=2, **options).active_mapping()
        mapping.indices.copy_(torch.tensor([[0, 1], [2, 3]]))
        values = torch.tensor([[1.0, 4.0, 0.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf]])
        assert mapping(Readout(values))[0, 0].item() == pytest.approx(score, abs=1e-5)

    def test_blocks_are_the_first_so_many_for_the_first_label(self) -> None:
        mapping = _model(labels=["a", "b", "c"], method="blocks", per_label=2, centred=False).active_mapping()
        assert mapping.indices.tolist() == [[0, 1], [2, 3], [4, 5]]

    @pytest.mark.parametrize(("most", "each"), [(2, 2), (6, 3)])
    def test_as_many_as_there_are_up_to_a_bound(self, most: int, each: int) -> None:
        """Seven classes for two labels: three each."""
        assert _model(method="random", centred=False, most=most).active_mapping().indices.shape == (2, each)

    def test_probabilities_are_divided_by_their_sum_over_the_target_labels(self) -> None:
        """Voice2Series renormalises: p_c = mean_c / sum over c' of mean_c', source labels of nobody left out."""
        mapping = _model(method="blocks", centred=False, per_label=2, scores="probabilities").active_mapping()
        p = torch.tensor([[0.1, 0.2, 0.05, 0.25, 0.3, 0.05, 0.05]])
        logits = mapping(Readout(p.log()))
        assert logits.softmax(1)[0].tolist() == pytest.approx([0.15 / (0.15 + 0.15), 0.15 / (0.15 + 0.15)])
        p = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.05, 0.0, 0.05]])
        logits = mapping(Readout(p.log()))
        assert logits.softmax(1)[0].tolist() == pytest.approx([0.15 / 0.45, 0.3 / 0.45])
        assert mapping.loss(logits, torch.tensor([1])).item() == pytest.approx(-np.log(0.3 / 0.45))

    def test_more_labels_than_the_base_has(self) -> None:
        with pytest.raises(ConfigError, match="each of 8 target labels, and there are 7.*linear maps any number"):
            _model(labels=[f"word {i}" for i in range(8)])


class TestGiven:
    GROUPS = {"cat": ["LABEL_5", 0], "dog": ["LABEL_2"], "cow": [6, 1]}

    def _given(self, groups: dict | None = None, **options: object) -> ReprogramModel:
        groups = self.GROUPS if groups is None else groups
        return _model(labels=list(groups), method="given", groups=groups, **{"centred": False, **options})

    def test_names_and_numbers_of_the_bases_classes(self) -> None:
        mapping = self._given().active_mapping()
        assert mapping.indices.tolist() == [[5, 0], [2, -1], [6, 1]]
        assert mapping.explain()["source labels"] == {
            "cat": {"LABEL_5": 0.5, "LABEL_0": 0.5}, "dog": {"LABEL_2": 1.0}, "cow": {"LABEL_6": 0.5, "LABEL_1": 0.5}
        }  # fmt: skip
        assert not mapping.needs_fit

    def test_the_groups_name_the_labels(self) -> None:
        mapping = {"type": "labels", "method": "given", "groups": self.GROUPS}
        assert ReprogramConfig(mapping=mapping).labels == ["cat", "dog", "cow"]
        with pytest.raises(ConfigError, match="disagree on"):
            ReprogramConfig(mapping=mapping, labels=["cat", "dog", "sheep"])

    def test_the_order_of_the_config_is_that_of_the_scores(self) -> None:
        model = _model(labels=["cow", "cat", "dog"], method="given", groups=self.GROUPS, centred=False)
        assert model.active_mapping().indices.tolist() == [[6, 1], [5, 0], [2, -1]]

    @pytest.mark.parametrize(
        ("options", "scores"),
        [
            ({}, [(6 + 1) / 2, 3.0, (7 + 2) / 2]),
            ({"reduce": "sum"}, [7.0, 3.0, 9.0]),
            ({"reduce": "logsumexp"}, np.log([np.exp(6) + np.exp(1), np.exp(3), np.exp(7) + np.exp(2)])),
        ],
    )
    def test_groups_of_different_sizes(self, options: dict, scores: list[float]) -> None:
        """The one of `dog` is neither averaged with nothing nor added to something."""
        mapping = self._given(**options).active_mapping()
        found = mapping(Readout(torch.arange(1.0, 8.0)[None]))
        assert found[0].tolist() == pytest.approx(list(scores), abs=1e-5)

    def test_no_gradient_reaches_a_class_of_nobody(self) -> None:
        for options in ({}, {"scores": "probabilities"}, {"reduce": "logsumexp"}):
            values = torch.randn(2, 7, generator=torch.Generator().manual_seed(0), requires_grad=True)
            mapping = self._given({"cat": [0, 1], "dog": [2]}, **options).active_mapping()
            mapping.loss(mapping(Readout(values)), torch.tensor([0, 1])).backward()
            assert values.grad.isfinite().all() and bool(values.grad[:, :3].any())
            assert values.grad[:, 3:].abs().max() < 1e-7  # a softmax over all would cancel there

    def test_centring_takes_the_means_of_rows(self) -> None:
        mapping = self._given(centred=True).active_mapping()
        assert mapping.needs_fit and not mapping.fit_needs_labels
        values = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) + torch.arange(7.0) * 10
        mapping.fit(values, None)
        assert mapping(Readout(values)).mean(0).abs().max() < 1e-5
        assert mapping.indices.tolist() == [[5, 0], [2, -1], [6, 1]]

    @pytest.mark.parametrize(
        ("groups", "says"),
        [
            (
                {"cat": ["LABEL_5"], "dog": ["LABEL_21"]},
                r"groups\['dog'\].*no class 'LABEL_21'.*did you mean 'LABEL_2'",
            ),
            ({"cat": [5], "dog": [7]}, r"groups\['dog'\].*7.*0 to 6"),
            ({"cat": [5], "dog": [-1]}, r"groups\['dog'\].*-1.*0 to 6"),
            ({"cat": [5], "dog": []}, r"groups\['dog'\].*at least one"),
            ({"cat": [5], "dog": [5]}, r"groups\['dog'\].*5, which 'cat' has.*each class once"),
            ({"cat": [5], "dog": ["LABEL_5"]}, r"groups\['dog'\].*'LABEL_5', which 'cat' has"),
        ],
    )
    def test_what_is_refused(self, groups: dict, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            self._given(groups)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"method": "given"}, "LabelsConfig.groups"),
            ({"method": "random", "groups": GROUPS}, "LabelsConfig.groups"),
            ({"method": "given", "groups": GROUPS, "per_label": 2}, "LabelsConfig.per_label"),
            ({"method": "given", "groups": GROUPS, "on": "vocabulary"}, "mapping 'verbalizer'"),
        ],
    )
    def test_options_that_do_not_fit_together(self, options: dict, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            _model(labels=list(self.GROUPS), **options)

    def test_a_language_model_has_no_classes(self) -> None:
        with pytest.raises(ConfigError, match="LabelsConfig.method: 'given': .*LlamaForCausalLM has none.*verbalizer"):
            _model("llama", labels=list(self.GROUPS), method="given", groups=self.GROUPS)

    def test_it_comes_back_from_a_folder(self, tmp_path: Path) -> None:
        model = self._given(scores="probabilities")
        model.save_pretrained(tmp_path)
        base, tokenizer = tiny("llama-classifier")
        again = ReprogramModel.from_pretrained(base, tmp_path, processing_class=tokenizer)
        rows = [{"text": row["text"]} for row in ROWS]
        assert torch.equal(again.score(rows), model.score(rows))


class TestSeveral:
    def test_classes_that_a_row_may_have_together_are_probable_each_for_itself(self) -> None:
        """CREPE's pitches and taggers of sounds: a sigmoid each, not one softmax."""
        base, tokenizer = tiny("llama-classifier")
        base.config.problem_type = "multi_label_classification"
        mapping = {"type": "labels", "method": "given", "groups": {"a": [0, 1], "b": [2]}, "centred": False}
        config = ReprogramConfig(
            program={"type": "prompt", "template": "{prompt:2} {text}"},
            mapping={**mapping, "scores": "probabilities"},
        )
        mapping = get_reprogram_model(base, config, tokenizer).active_mapping()
        p = torch.tensor([[0.9, 0.5, 0.6, 0.99, 0.9, 0.9, 0.9]])  # they do not sum to 1
        logits = mapping(Readout(p.logit()))
        assert logits[0].exp().tolist() == pytest.approx([0.7, 0.6], abs=1e-6)
        assert mapping.loss(logits, torch.tensor([1])).item() == pytest.approx(-np.log(0.6 / 1.3), abs=1e-6)
        far = mapping(Readout(torch.full((1, 7), -200.0)))  # float32 holds no exp(-200)
        assert far[0].tolist() == pytest.approx([-200.0, -200.0], abs=1e-4)


class TestFit:
    def test_centring_takes_an_offset_out_of_every_source_label(self) -> None:
        """M§A.11: a fixed offset per output turns raw counts into noise and leaves centred ones alone."""
        chosen = []
        for offset in (0.0, 50.0):
            mapping = _model(labels=["a", "b", "c"], per_label=1).active_mapping()
            values = torch.tensor(np.pad(Z, ((0, 0), (0, 2))))
            values[:, 2] += offset
            mapping.fit(values, torch.tensor(Y))
            chosen.append(mapping.indices.tolist())
        assert chosen[0] == chosen[1]

    def test_scores_of_a_fitted_map_are_centred(self) -> None:
        mapping = _model(per_label=1).active_mapping()
        values = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) + torch.arange(7.0) * 10
        mapping.fit(values, torch.arange(20) % 2)
        assert mapping(Readout(values)).mean(0).abs().max() < 1e-5

    def test_a_base_that_always_says_the_same_is_counted_softly_and_said_so(self, caplog) -> None:
        mapping = _model(per_label=1, centred=False).active_mapping()
        values = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
        values[:, 3] += 100
        values[::2, 5] += 3
        with caplog.at_level(logging.WARNING):
            mapping.fit(values, torch.arange(20) % 2)
        assert "only 1 of its 7 labels first" in caplog.text
        assert mapping.indices[0].item() == 5

    def test_an_output_that_never_moves_is_not_chosen(self) -> None:
        mapping = _model(per_label=3).active_mapping()
        values = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
        values[:, 4] = 1.5
        mapping.fit(values, torch.arange(20) % 2)
        assert 4 not in mapping.indices.flatten().tolist()

    def test_rows_of_every_label_are_needed(self) -> None:
        with pytest.raises(DataError, match="no row of \\['positive'\\]"):
            _model().fit_mapping([ROWS[1]])

    def test_a_score_that_is_no_number_is_named_by_its_row(self) -> None:
        values = torch.zeros(3, 7)
        values[1, 2] = torch.nan
        with pytest.raises(DataError, match=r"fit_mapping\(rows\)\[1\].*NaN"):
            _model().active_mapping().fit(values, torch.tensor([0, 1, 0]))

    def test_a_random_map_is_its_seeds(self) -> None:
        a, b = (_model(method="random", centred=False).active_mapping().indices for _ in range(2))
        assert torch.equal(a, b) and len(set(a.flatten().tolist())) == 6

    def test_random_and_centred_needs_rows_without_labels(self) -> None:
        model = _model(method="random")
        model.fit_mapping([{"text": row["text"]} for row in ROWS])
        assert logits_of(model, ROWS).shape == (6, 2)


class TestReading:
    def test_only_the_chosen_tokens_are_read_once_fitted(self) -> None:
        """A map of a vocabulary costs a look at all of it once, and a few rows from then on."""
        model = _model("llama", per_label=3)
        mapping = model.active_mapping()
        assert mapping.reading().ids is None
        model.fit_mapping(ROWS)
        assert len(mapping.reading().ids) == 6
        few = logits_of(model, ROWS)
        whole = model.reprogrammed.readout(
            model.collator()([{"text": r["text"]} for r in ROWS]), mapping.fit_reading()
        )
        torch.testing.assert_close(few, mapping(Readout(whole)), atol=1e-5, rtol=0)
        state = {k: v.clone() for k, v in mapping.state_dict().items()}
        model.fit_mapping(ROWS)  # again: from the whole vocabulary, not from what is left of it
        assert all(torch.equal(v, state[k]) for k, v in mapping.state_dict().items())

    def test_a_vocabulary_costs_no_more_in_the_file_than_what_is_chosen(self) -> None:
        assert {k: v.numel() for k, v in _model("llama", per_label=3).active_mapping().state_dict().items()} == {
            "fitted": 1,
            "indices": 6,
            "mean": 6,
        }


class TestRefused:
    def test_more_target_labels_than_the_base_has_room_for(self) -> None:
        """C·m > K, with all three numbers."""
        with pytest.raises(
            ConfigError, match="4 source labels for each of 2 target labels, and there are 7.*at most 3"
        ):
            _model(per_label=4)

    def test_more_target_labels_than_source_labels(self) -> None:
        with pytest.raises(ConfigError, match="1 source labels for each of 8 target labels.*linear maps any number"):
            _model(labels=[str(i) for i in range(8)])

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"scores": "probabilities", "reduce": "logsumexp"}, "LabelsConfig.reduce"),
            ({"method": "random", "soft": True}, "LabelsConfig.soft"),
            ({"temperature": 7.0}, "LabelsConfig.temperature: 7.0 with scores='logits'.*scores='probabilities'"),
            ({"method": "frequent"}, "did you mean 'frequency'"),
            ({"on": "vocabulary"}, "'labels' reads rows"),
        ],
    )
    def test_options(self, options: dict, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            _model(**options)


class TestAmong:
    """Only some of the base's classes, by their names."""

    @pytest.mark.parametrize("method", ["frequency", "assignment", "random", "blocks"])
    def test_no_other_is_taken(self, method: str) -> None:
        model = _model(method=method, among=["LABEL_5", "LABEL_2", "LABEL_3"], per_label=1)
        model.fit_mapping(ROWS)
        taken = model.active_mapping().indices.flatten().tolist()
        assert len(set(taken)) == 2 and set(taken) <= {2, 3, 5}
        if method == "blocks":
            assert taken == [2, 3]

    def test_the_count_is_of_those(self) -> None:
        assert _model(among=["LABEL_1", "LABEL_4", "LABEL_6"]).active_mapping().indices.shape == (2, 1)
        with pytest.raises(ConfigError, match="LabelsConfig.among: .* there are 1"):
            _model(among=["LABEL_1"])

    @pytest.mark.parametrize(
        ("family", "options", "says"),
        [
            ("llama-classifier", {"among": ["LABEL_9"]}, "no class 'LABEL_9'"),
            ("llama", {"among": [" good"]}, "a vocabulary.*verbalizer"),
            ("llama-classifier", {"among": ["LABEL_1"], "method": "given",
                                  "groups": {"negative": [0], "positive": [1]}}, "groups name the classes"),
        ],
    )  # fmt: skip
    def test_names_that_are_none(self, family: str, options: dict[str, object], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            _model(family, **options)

    @pytest.mark.parametrize("kind", ["bayesian", "prototype", "transport", "auto"])
    def test_maps_of_scores_too(self, kind: str) -> None:
        base, tokenizer = tiny("llama-classifier")
        mapping = {"type": kind, "among": ["LABEL_5", "LABEL_2", "LABEL_3"]}
        model = get_reprogram_model(base, ReprogramConfig(program="none", mapping=mapping, labels=LABELS), tokenizer)
        model.fit_mapping(ROWS)
        assert model.active_mapping().indices.tolist() == [2, 3, 5]


def test_a_temperature_divides_before_probabilities() -> None:
    z = torch.tensor([[2.0, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0]])
    options = {"method": "given", "groups": {"negative": [0], "positive": [3]}, "scores": "probabilities"}
    model = _model(**options, centred=False, temperature=2.0)
    found = model.active_mapping()(Readout(z, kind="classes"))
    torch.testing.assert_close(found, (z / 2).log_softmax(1)[:, [0, 3]])


def test_earlier_counts_are_remembered_and_saved(tmp_path: Path) -> None:
    model = _model("bert-classifier", labels=["a", "b"], refit_every=1, remember=0.5, centred=False, per_label=1)
    mapping = model.active_mapping()
    first, y = torch.zeros(4, 7), torch.tensor([0, 0, 0, 1])
    first[:3, 1], first[3, 2] = 1.0, 1.0
    mapping.fit(first, y)
    assert mapping.indices.flatten().tolist() == [1, 2]
    second = torch.zeros(4, 7)
    second[:1, 4], second[1:3, 5], second[3, 2] = 1.0, 1.0, 1.0
    mapping.fit(second, y)  # 1: 1.5 from before; 5: 2 now; 4: 1 now
    assert mapping.counts[:, 0].tolist() == [0, 1.5, 0, 0, 1, 2, 0] and mapping.indices.flatten().tolist() == [5, 2]
    model.save_pretrained(tmp_path)
    again = ReprogramModel.from_pretrained(model.unload(), tmp_path, processing_class=model.processing_class)
    assert torch.equal(again.active_mapping().counts, mapping.counts)
    with pytest.raises(ConfigError, match="counts nothing"):
        _model(remember=0.5, method="random")
