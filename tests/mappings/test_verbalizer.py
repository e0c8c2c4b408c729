"""The verbalizer's formulas by hand (M§A.14)."""

from __future__ import annotations

import math

import pytest
import torch

from hf_reprogram.batch import Readout
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.mappings.verbalizer import Verbalizer, VerbalizerConfig
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import ROWS, logits_of, tiny


class _Backbone:
    """Only the shapes that a mapping asks for."""

    modality = "text"

    class head:
        size, width = 6, 4


def _verbalizer(**options: object) -> Verbalizer:
    config = VerbalizerConfig(words={"a": ["x", "y"], "b": ["z"]}, ids={"a": [0, 1], "b": [2]}, **options)
    return Verbalizer(config, _Backbone, ["a", "b"], "single_label_classification")


@pytest.mark.parametrize(
    ("reduce", "first"), [("mean", 1.5), ("max", 2.0), ("logsumexp", math.log((math.e**2 + math.e) / 2))]
)
def test_reductions(reduce: str, first: float) -> None:
    scores = _verbalizer(reduce=reduce)(Readout(torch.tensor([[2.0, 1.0, 2.5]])))
    assert scores[0].tolist() == pytest.approx([first, 2.5])


def test_logsumexp_gives_a_class_with_more_words_no_head_start() -> None:
    # the reference's vector: 2.3133 - log 2 = 1.6201
    assert _verbalizer(reduce="logsumexp")(Readout(torch.tensor([[2.0, 1.0, 2.5]])))[0, 0].item() == pytest.approx(
        1.6201, abs=1e-4
    )


@pytest.mark.parametrize(("best", "first"), [(1, 4.0), (2, 3.0), (3, 2.0), (9, 2.0)])
def test_the_mean_of_the_best_words_of_a_row(best: int, first: float) -> None:
    """Three words of 2, 0 and 4: the best is 4, two have the mean 3, three 2; the other class has one word of 2.5."""
    config = VerbalizerConfig(
        words={"a": ["x", "y", "z"], "b": ["w"]}, ids={"a": [0, 1, 3], "b": [2]}, reduce="top", best=best
    )
    mapping = Verbalizer(config, _Backbone, ["a", "b"], "single_label_classification")
    scores = mapping(Readout(torch.tensor([[2.0, 0.0, 4.0, 2.5], [0.0, 1.0, 0.0, -1.0]])))
    assert scores[0].tolist() == pytest.approx([first, 2.5])
    assert scores[1].tolist() == pytest.approx([1 / min(best, 3), -1.0])  # each row has best words of its own


def test_the_sum_of_probabilities_under_the_whole_vocabulary() -> None:
    """The reference's .23106 and .27850: of log-probabilities, as words of several tokens give them, logsumexp is the
    log of their mean, of two words half of the sum."""
    h = torch.tensor([[2.0, 1.0, 2.5, 0.0, 3.0, -1.0]])
    scores = _verbalizer(reduce="logsumexp")(Readout(h.log_softmax(1)[:, :3]))
    assert (2 * scores[0, 0].exp()).item() == pytest.approx(0.23106, abs=1e-5)
    assert scores[0, 1].exp().item() == pytest.approx(0.27850, abs=1e-5)


def test_contextual_calibration() -> None:
    """p = (.7, .3), content-free p = (.8, .2): the calibrated odds are .875 to 1.5, that is (.3684, .6316)."""
    mapping = _verbalizer(reduce="max", calibration="contextual")
    mapping.fit(torch.tensor([[math.log(0.8), -9.0, math.log(0.2)]]), None)
    q = mapping(Readout(torch.tensor([[math.log(0.7), -9.0, math.log(0.3)]]))).softmax(1)
    assert q[0].tolist() == pytest.approx([0.3684, 0.6316], abs=1e-4)


def test_batch_calibration() -> None:
    """p = (.9,.1), (.8,.2), (.6,.4): p^ = (.7667, .2333), scores (.160,-.847), (.043,-.154), (-.245,.539)."""
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    values = torch.stack([p[:, 0].log(), torch.full((3,), -9.0), p[:, 1].log()], 1)
    mapping = _verbalizer(reduce="max", calibration="batch")
    mapping.fit(values, None)
    expected = torch.tensor([[0.160, -0.847], [0.043, -0.154], [-0.245, 0.539]])
    torch.testing.assert_close(mapping(Readout(values)), expected, atol=1e-3, rtol=0)


def test_calibration_by_word() -> None:
    """Words (3, 0, 1), (1, 2, 1): means (2, 1, 1), less these (1, -1, 0), (-1, 1, 0): maxima (1, 0), (1, 0)."""
    values = torch.tensor([[3.0, 0.0, 1.0], [1.0, 2.0, 1.0]])
    mapping = _verbalizer(reduce="max", calibration="words")
    mapping.fit(values, None)
    assert mapping.offset.tolist() == [2, 1, 1]
    assert mapping(Readout(values)).tolist() == [[1, 0], [1, 0]]


def test_calibration_by_word_takes_what_is_common_to_a_row_for_nothing() -> None:
    """Logits differ from log-probabilities by a number of the row; the difference of two scores stays as it is."""
    values, common = torch.randn(5, 3, generator=torch.manual_seed(0)), torch.arange(5.0)[:, None]
    plain, moved = (_verbalizer(calibration="words") for _ in range(2))
    plain.fit(values, None)
    moved.fit(values + common, None)
    expected, found = plain(Readout(values)), moved(Readout(values + common))
    torch.testing.assert_close(found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1])


@pytest.mark.parametrize("calibration", ["contextual", "batch", "words"])
def test_a_row_that_is_no_number_calibrates_nothing(calibration: str) -> None:
    mapping = _verbalizer(calibration=calibration)
    with pytest.raises(DataError, match=r"fit_mapping\(rows\)\[1\]: NaN or infinity"):
        mapping.fit(torch.tensor([[1.0, 2.0, 3.0], [1.0, math.nan, 3.0]]), None)
    assert mapping.needs_fit and mapping.offset.tolist() == [0.0] * len(mapping.offset)


def test_domain_calibration_is_pmi_up_to_a_constant_per_row() -> None:
    """(.02/.01, .03/.05): the difference of the scores is .6931 + .5108."""
    mapping = _verbalizer(reduce="max", calibration="domain", calibration_texts=["A review."])
    mapping.fit(torch.tensor([[math.log(0.01), -99.0, math.log(0.05)]]), None)
    scores = mapping(Readout(torch.tensor([[math.log(0.02), -99.0, math.log(0.03)]])))[0]
    assert (scores[0] - scores[1]).item() == pytest.approx(0.6931 + 0.5108, abs=1e-4)


def test_trained_rows_start_at_the_label_rows() -> None:
    base, tokenizer = tiny("bert")
    words = {"negative": [" bad"], "positive": [" good", " great"]}
    program = {"type": "prompt", "template": "{prompt:2} {text} it was{answer}"}
    fixed = ReprogramConfig(program=program, mapping=VerbalizerConfig(words=words))
    trained = ReprogramConfig(program=program, mapping=VerbalizerConfig(words=words, rows="trained"))
    model = get_reprogram_model(base, fixed, tokenizer)
    model.add_adapter("trained", trained)
    before = logits_of(model, ROWS)
    model.set_adapter("trained")
    torch.testing.assert_close(logits_of(model, ROWS), before, atol=1e-5, rtol=0)
    assert {n.split(".")[-1] for n, p in model.named_parameters() if p.requires_grad} == {"slots", "vectors", "bias"}


def test_contextual_calibration_needs_no_rows_of_the_user() -> None:
    base, tokenizer = tiny("llama")
    mapping = VerbalizerConfig(words={"a": [" bad"], "b": [" good"]}, calibration="contextual")
    model = get_reprogram_model(base, ReprogramConfig(program="prompt", mapping=mapping), tokenizer)
    assert not model.active_mapping().needs_fit
    shares = logits_of(model, [{"text": "N/A"}]).softmax(1)
    torch.testing.assert_close(shares, torch.tensor([[0.5, 0.5]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("calibration", ["batch", "words"])
def test_calibration_on_rows_refuses_to_map_before_it_is_fitted(calibration: str) -> None:
    base, tokenizer = tiny("llama")
    mapping = VerbalizerConfig(words={"a": [" bad"], "b": [" good"]}, calibration=calibration)
    model = get_reprogram_model(base, ReprogramConfig(program="prompt", mapping=mapping), tokenizer)
    with pytest.raises(UsageError, match="fit_mapping"):
        logits_of(model, ROWS)
    model.fit_mapping(ROWS)
    assert logits_of(model, ROWS).isfinite().all()


def test_texts_cannot_calibrate_a_base_that_hears() -> None:
    base, processor = tiny("moonshine-seq2seq")
    mapping = VerbalizerConfig(words={"a": ["bad"], "b": ["good"]}, calibration="contextual")
    with pytest.raises(ConfigError, match="a base that hears.*'words' or 'batch'"):
        get_reprogram_model(base, ReprogramConfig(program="none", mapping=mapping), processor)


def test_labels_decide_the_order_not_the_words() -> None:
    base, tokenizer = tiny("llama")
    mapping = VerbalizerConfig(words={"a": [" bad"], "b": [" good"]})
    scores = {}
    for order in (["a", "b"], ["b", "a"]):
        model = get_reprogram_model(base, ReprogramConfig(program="prompt", mapping=mapping, labels=order), tokenizer)
        scores[order[0]] = logits_of(model, ROWS)
        assert model.label_names() == order
        model.unload()
    torch.testing.assert_close(scores["a"], scores["b"].flip(1))


def test_two_classes_with_one_word_are_refused() -> None:
    base, tokenizer = tiny("llama")
    mapping = VerbalizerConfig(words={"a": [" bad", " good"], "b": [" good"]})
    with pytest.raises(ConfigError, match="which class 'a' has too"):
        get_reprogram_model(base, ReprogramConfig(program="prompt", mapping=mapping), tokenizer)
