"""The score function: the estimator by hand and against the exact gradient; it asks the base for answers only."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.mappings.tokens import TokensConfig
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs.vocabulary import VocabularyConfig
from hf_reprogram.testing import tiny
from hf_reprogram.tools.score_function import _by_row, _step, fit_by_score, leave_one_out, surrogate


LABELS = ["negative", "positive"]
ROWS = [{"text": "ab", "label": "negative"}, {"text": "ba", "label": "positive"}] * 4


def _model(mapping: Any = None, **options: Any) -> ReprogramModel:
    base, tokenizer = tiny("bert-classifier")
    program = VocabularyConfig(**{"symbols": "ab", "candidates": 6, "keep": 0.3, **options})
    mapping = mapping or {"type": "linear", "on": "classes", "solver": "gradient"}
    return get_reprogram_model(base, ReprogramConfig(program=program, mapping=mapping, labels=LABELS), tokenizer)


def test_each_draw_is_judged_by_the_others() -> None:
    losses = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    assert leave_one_out(losses).tolist() == [[0.0, -1.5], [1.5, -1.5], [-1.5, 3.0]]


def test_the_mean_of_the_estimator_is_the_exact_gradient() -> None:
    """M§B.4: p = (.5, .3, .2), losses (1, 2, 0): p_j (L_j - 1.1) = (-.05, .27, -.22), over all pairs of draws."""
    p, losses = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([1.0, 2.0, 0.0])
    mean = torch.zeros(3)
    for pair in itertools.product(range(3), repeat=2):
        logits = p.log().requires_grad_()
        drawn = torch.tensor(pair)
        surrogate(losses[drawn][:, None], logits.log_softmax(0)[drawn][:, None]).backward()
        mean += p[drawn].prod() * logits.grad
    torch.testing.assert_close(mean, torch.tensor([-0.05, 0.27, -0.22]))


def test_log_probabilities_of_a_row_are_summed() -> None:
    there = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    found = _by_row(torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]), there)
    assert found.tolist() == [[3.0, 30.0], [0.0, 0.0], [4.0, 40.0]]


def test_a_step_is_unbiased_on_a_whole_model() -> None:
    """A row of two symbols, two candidates: four texts, whose losses and probabilities are counted out."""
    model = _model({"type": "labels", "method": "blocks", "per_label": 1, "centred": False}, candidates=2, context=3)
    program = model.active_programs()[0]
    torch.nn.init.normal_(program.table, generator=torch.Generator().manual_seed(0))
    columns = model.collator()(ROWS[:1])
    labels = columns.pop("labels")
    batch = model.reprogrammed.batch(**columns)

    expected, losses = torch.zeros(()), {}
    for text in itertools.product(range(2), repeat=2):
        with program.given(torch.tensor(text)), torch.no_grad():
            losses[text] = model(**columns, labels=labels).loss
        logits = program.logits(batch).log_softmax(1)
        expected = expected + logits[range(2), text].sum().exp() * losses[text]
    expected.backward()
    exact = program.table.grad.clone()

    mean = torch.zeros_like(exact)
    chance = program.logits(batch).log_softmax(1).detach()
    for pair in itertools.product(losses, repeat=2):
        program.table.grad = None
        draws = torch.tensor(pair)  # (draws, symbols)
        logits = program.logits(batch).log_softmax(1)
        chances = _by_row(logits.gather(1, draws.T), program.places(batch)).T
        surrogate(torch.stack([losses[text] for text in pair])[:, None], chances).backward()
        weight = torch.stack([chance[range(2), text].sum() for text in pair]).sum().exp()
        mean += weight * program.table.grad
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(mean, exact, atol=1e-6, rtol=1e-4)


def test_the_base_is_asked_without_gradients_and_the_mapping_learns() -> None:
    model, asked = _model(), []
    model.backbone.base.register_forward_pre_hook(lambda *_: None)
    handle = model.backbone.body.register_forward_pre_hook(
        lambda _, args, kwargs: asked.append((torch.is_grad_enabled(), kwargs["inputs_embeds"].requires_grad)),
        with_kwargs=True,
    )
    program, mapping = model.active_programs()[0], model.active_mapping()
    value, losses = _step(model, program, model.collator()(ROWS[:4]), 3, torch.Generator().manual_seed(0))
    handle.remove()
    assert asked == [(False, False)] * 3 and losses.shape == (3, 4)
    value.backward()
    assert program.table.grad.abs().sum() > 0 and mapping.matrix.grad.abs().sum() > 0
    assert program.steps.item() == 0


@pytest.mark.parametrize("form", ["full", "low_rank", "free"])
def test_symbols_at_positions_are_taught_too(form: str) -> None:
    """A map that is a product with the base's head gets the head from the base, whatever was read before."""
    base, tokenizer = tiny("bert")
    mapping = TokensConfig(symbols="abc", form=form, rank=2)
    config = ReprogramConfig(program=VocabularyConfig(symbols="abc", candidates=6, keep=0.3), mapping=mapping)
    model = get_reprogram_model(base, config, tokenizer)
    rows = [{"text": "a<mask>", "label": "b"}, {"text": "<mask>b<mask>", "label": "ca"}]
    columns = model.collator()(rows)
    plain = {key: value for key, value in columns.items() if key != "labels"}
    with torch.no_grad():
        read = model.reprogrammed.readout(plain, model.active_mapping().reading())
        assert torch.allclose(model(readout=read).logits, model(**plain).logits, atol=1e-6)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    assert len(fit_by_score(model, rows * 4, epochs=2, samples=2, batch_size=4)) == 2
    after = [p for p in model.parameters() if p.requires_grad]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_it_learns_and_repeats_itself() -> None:
    found = []
    for seed in (0, 0, 1):
        model = _model({"type": "labels", "method": "blocks", "per_label": 1, "centred": False}, context=3)
        before = {k: v.clone() for k, v in model.backbone.base.state_dict().items()}
        start = model.evaluate(ROWS)["loss"]
        losses = fit_by_score(model, ROWS, epochs=20, batch_size=8, learning_rate=0.3, seed=seed)
        assert losses[-1] < losses[0] and model.evaluate(ROWS)["loss"] < start
        assert all(torch.equal(v, before[k]) for k, v in model.backbone.base.state_dict().items())
        found.append(losses)
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"epochs": 0}, r"fit_by_score\(epochs\): 0\. Expected a whole number from 1"),
        ({"epochs": -1}, r"fit_by_score\(epochs\): -1"),
        ({"samples": 2.5}, r"fit_by_score\(samples\): 2\.5"),
        ({"batch_size": 0}, r"fit_by_score\(batch_size\): 0"),
        ({"learning_rate": "x"}, r"fit_by_score\(learning_rate\): 'x'\. Expected a number above 0, or None"),
        ({"learning_rate": -1.0}, r"fit_by_score\(learning_rate\): -1\.0"),
        ({"learning_rate": 0}, r"fit_by_score\(learning_rate\): 0\."),
    ],
)
def test_numbers_that_cannot_be_meant(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fit_by_score(_model(), ROWS, **given)


def test_a_budget_that_ends_in_training_leaves_the_best_so_far(caplog: pytest.LogCaptureFixture) -> None:
    def judged(texts: Sequence[str]) -> list[list[float]]:
        return [[float(t.count("o")) * (t[0] > "m"), float(t.count("e")) * (t[0] > "m")] for t in texts]

    def trained(epochs: int, most: int | None = None) -> tuple[list[float], torch.Tensor]:
        base, tokenizer = hr.remote_text(judged, ["o", "e"], "judged@1", most=most)
        program = {"type": "words", "template": "{prompt:1} {text}", "words": list(string.ascii_letters)}
        config = ReprogramConfig(program=program, mapping=hr.LinearConfig(on="classes"), labels=["o", "e"])
        model = get_reprogram_model(base, config, tokenizer)
        rows = [{"text": text, "label": text[0]} for text in ("oo", "ee", "ooo", "eee")]
        found = fit_by_score(model, rows, epochs=epochs, learning_rate=0.3)
        return found, model.active_programs()[0].table.detach()

    losses, table = trained(60, most=40)
    assert 2 < len(losses) < 60
    assert f"Training ends after {len(losses)} of 60 epochs" in caplog.text and "at most 40" in caplog.text
    best = max(i for i, loss in enumerate(losses, 1) if loss == min(losses))
    assert best < len(losses)
    whole, expected = trained(best)
    assert whole == losses[:best] and torch.equal(table, expected)


def test_what_cannot_be_trained_so() -> None:
    with pytest.raises(UsageError, match="samples.*1.*at least 2"):
        fit_by_score(_model(), ROWS, samples=1)
    with pytest.raises(DataError, match=r"rows\[1\]\['label'\]: missing"):
        fit_by_score(_model(), [ROWS[0], {"text": "a"}])
    asleep = _model()
    asleep.requires_grad_(False)
    with pytest.raises(UsageError, match="no program would train.*is_trainable=True"):
        fit_by_score(asleep, ROWS)
    base, tokenizer = tiny("bert")
    words = {"type": "verbalizer", "words": {"a": [" bad"], "b": [" good"]}}
    prompt = {"type": "prompt", "template": "{prompt:2} {text} it was{answer}"}
    config = ReprogramConfig(program=[prompt, VocabularyConfig(symbols="ab")], mapping=words)
    with pytest.raises(UsageError, match=r"prompt \+ vocabulary would train.*one vocabulary or words"):
        fit_by_score(get_reprogram_model(base, config, tokenizer), ROWS)
    base, tokenizer = tiny("llama")
    several = {"type": "verbalizer", "words": {"negative": [" very bad"], "positive": [" good"]}}
    template = "{text} it was{answer}"
    config = ReprogramConfig(program=VocabularyConfig(symbols="ab", template=template), mapping=several)
    with pytest.raises(UsageError, match="words of several tokens"):
        fit_by_score(get_reprogram_model(base, config, tokenizer), ROWS)
