"""`similarity`: assignments by hand (M§A.3, A.4), prototypes from the classifier, scores, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.batch import Readout
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.mappings.similarity import balanced, classifier_rows, greedy
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import AUDIO_ROWS, LABELS, tiny


def _model(family: str = "wav2vec2-classifier", labels: list[str] | None = None, **options: Any) -> ReprogramModel:
    base, processor = tiny(family)
    config = ReprogramConfig(
        mapping={"type": "similarity", **options},
        labels=labels or LABELS,
        canvas=None if "whisper" in family or "ast" in family else {"samples": 3200},
    )
    return get_reprogram_model(base, config, processor)


class TestAssignment:
    def test_balanced_beats_the_first_choice(self) -> None:
        """M§A.3: the nearest first sums to 8, the best sum is 9."""
        likeness = np.array([[5.0, 4, 0], [4, 0, 0], [0, 3, 1]])
        assert balanced(likeness, 1).tolist() == [1, 0, 2]

    def test_balanced_gives_every_label_so_many(self) -> None:
        likeness = np.array([[0.9, 0.8], [0.9, 0.1], [0.8, 0.3], [0.7, 0.0], [0.6, 0.5]])
        owner = balanced(likeness, 2)
        assert owner.tolist() == [1, 0, 0, -1, 1]  # 0.9 + 0.8 + 0.8 + 0.5 = 3.0

    def test_greedy_goes_by_the_order_of_the_source_classes(self) -> None:
        """AR-SCR: fewer than two first, then fewer than three, then nobody (2110.03894)."""
        likeness = np.tile([0.9, 0.1], (8, 1))
        assert greedy(likeness, 2, 3).tolist() == [0, 0, 1, 1, 0, 1, -1, -1]

    def test_a_class_that_was_never_heard_is_given_to_nobody(self) -> None:
        likeness = np.array([[np.nan, np.nan], [0.9, 0.1], [0.8, 0.2]])
        assert greedy(likeness, 1, 1).tolist() == [-1, 0, 1] == balanced(likeness, 1).tolist()


class TestPrototypes:
    def test_are_the_classifier_s_rows_through_its_projector(self) -> None:
        """Wav2Vec2: logits = C (P mean(h) + p) + c, so that row k is seen from the mean state as C[k] P."""
        base, _ = tiny("wav2vec2-classifier")
        rows = classifier_rows(base, 32)
        torch.testing.assert_close(rows, base.classifier.weight @ base.projector.weight)

    def test_of_a_bare_last_layer_are_its_rows(self) -> None:
        base, _ = tiny("ast-classifier")
        torch.testing.assert_close(classifier_rows(base, 32), base.classifier.dense.weight)

    def test_a_state_that_does_not_fit_says_so(self) -> None:
        with pytest.raises(ConfigError, match=r"has 64 numbers.*prototypes='rows'"):
            _model(pool="statistics")

    def test_from_rows_are_the_means_of_their_classes(self) -> None:
        mapping = _model(prototypes="rows", per_label=1).active_mapping()
        with pytest.raises(UsageError, match=r"learn\(values, classes\) first"):
            mapping.fit(torch.zeros(2, 2), torch.tensor([0, 1]))
        mapping.learn(torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), torch.tensor([4, 4, 1]))
        assert mapping.prototypes[[4, 1]].tolist() == [[2, 0], [0, 2]] and mapping.prototypes[0].isnan().all()
        mapping.fit(torch.tensor([[0.0, 9.0], [1.0, 0.1]]), torch.tensor([0, 1]))
        assert torch.nonzero(mapping.groups).tolist() == [[0, 1], [1, 4]]

    def test_too_few_classes_with_rows(self) -> None:
        mapping = _model(prototypes="rows", per_label=1).active_mapping()
        mapping.learn(torch.ones(2, 2), torch.tensor([4, 4]))
        with pytest.raises(ConfigError, match="each of 2 target labels, and there are 1"):
            mapping.fit(torch.eye(2), torch.tensor([0, 1]))

    def test_ids_that_the_base_does_not_have(self) -> None:
        with pytest.raises(DataError, match="ids from 0 to 7 for 2 rows.*one id from 0 to 6"):
            _model(prototypes="rows").active_mapping().learn(torch.ones(2, 2), torch.tensor([0, 7]))
        with pytest.raises(UsageError, match="prototypes='rows'"):
            _model().active_mapping().learn(torch.ones(2, 2), torch.tensor([0, 1]))


class TestScores:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, np.log([(0.1 + 0.2 + 0.3) / 3, 0.25])),
            ({"reduce": "sum"}, np.log([0.1 + 0.2 + 0.3, 0.25])),
            ({"scores": "logits"}, np.log([(0.1 * 0.2 * 0.3) ** (1 / 3), 0.25])),
            ({"scores": "logits", "reduce": "sum"}, np.log([0.1 * 0.2 * 0.3, 0.25])),
        ],
    )
    def test_by_hand(self, options: dict[str, str], expected: np.ndarray) -> None:
        mapping = _model(**options).active_mapping()
        mapping.groups.zero_()
        mapping.groups[0, :3] = 1
        mapping.groups[1, 5] = 1
        p = torch.tensor([[0.1, 0.2, 0.3, 0.05, 0.05, 0.25, 0.05]])
        found = mapping(Readout(p.log()))
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("family", ["wav2vec2-classifier", "whisper-classifier", "ast-classifier"])
def test_it_is_fitted_from_rows_and_read_from_classes(family: str) -> None:
    model = _model(family)
    with pytest.raises(UsageError, match="must be fitted"):
        model.predict(AUDIO_ROWS[:1])
    model.fit_mapping(AUDIO_ROWS)
    assert model.active_mapping().groups.sum(1).tolist() == [2, 2]
    assert model.active_mapping().groups.sum(0).max() == 1
    said = model.explain()["mapping"]["source labels"]
    assert list(said) == LABELS and all(name.startswith("LABEL_") for names in said.values() for name in names)
    assert [list(names.values()) for names in said.values()] == [[0.5, 0.5], [0.5, 0.5]]
    assert model.predict(AUDIO_ROWS[:1])[0]["label"] in LABELS


def test_more_labels_than_the_base_has_classes() -> None:
    """arabic-40 on 36 classes: the error names the mapping that can."""
    with pytest.raises(ConfigError, match=r"1 source labels for each of 8 .* there are 7.*linear maps any number"):
        _model(labels=[f"word {i}" for i in range(8)], per_label=1)


def test_a_bound_that_nothing_reads() -> None:
    with pytest.raises(ConfigError, match=r"SimilarityConfig.most: 5 with assignment='balanced'.*'greedy'"):
        _model(most=5)


def test_rows_of_every_label_are_needed() -> None:
    with pytest.raises(DataError, match="no row of \\['negative'\\]"):
        _model().fit_mapping(AUDIO_ROWS[:1])
