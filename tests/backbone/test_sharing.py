"""What rows have in common is computed once, and comes out the same (P§D)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainingArguments

from hf_reprogram import ReprogramConfig, get_reprogram_model, make_trainer
from hf_reprogram.backbone.sharing import Sharing
from hf_reprogram.errors import ReprogramError
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import LABELS, ROWS, tiny


FIRST, LAST = "{prompt:6} {text} it was{answer}", "{text} it was {prompt:3}{answer}"
CAUSAL = ["llama", "gpt2", "gemma2"]


def _model(template: str, family: str = "llama") -> ReprogramModel:
    base, tokenizer = tiny(family)
    words = {"negative": [" bad"], "positive": [" good"]}
    config = ReprogramConfig(
        program={"type": "prompt", "template": template}, mapping={"type": "verbalizer", "words": words}, labels=LABELS
    )
    return get_reprogram_model(base, config, processing_class=tokenizer)


class Positions:
    """Counts the positions that go through a body."""

    def __init__(self, body: torch.nn.Module) -> None:
        self.seen: list[tuple[int, int]] = []
        self.handle = body.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.seen.append(tuple(kwargs["inputs_embeds"].shape[:2]))

    def total(self) -> int:
        return sum(rows * steps for rows, steps in self.seen)


@pytest.fixture
def counted() -> Any:
    made: list[Positions] = []

    def count(model: ReprogramModel) -> Positions:
        model.backbone.sharing.proved  # noqa: B018 - the proof runs the body too
        made.append(Positions(model.backbone.body))
        return made[-1]

    yield count
    for positions in made:
        positions.handle.remove()


def _whole(model: ReprogramModel, work: Callable[[], Any]) -> Any:
    """The work without any sharing."""
    sharing, model.backbone.sharing = model.backbone.sharing, None
    try:
        return work()
    finally:
        model.backbone.sharing = sharing


def _step(model: ReprogramModel, columns: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits and the gradient of the slots."""
    (slots,) = [p for p in model.parameters() if p.requires_grad]
    model.train()
    slots.grad = None
    out = model(**columns)
    out.loss.backward()
    return out.logits.detach(), slots.grad.clone()


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("template", [FIRST, LAST])
def test_training_is_the_same(family: str, template: str, counted: Any) -> None:
    model = _model(template, family)
    columns = model.collator()(ROWS)
    long_way = _whole(model, lambda: _step(model, columns))
    positions = counted(model)
    for _ in range(2):  # the second time texts are known
        for ours, theirs in zip(_step(model, columns), long_way, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    if template == FIRST or model.backbone.sharing.proved["texts"]:
        assert positions.total() < 2 * columns["input_ids"].numel()


@pytest.mark.parametrize("family", CAUSAL)
def test_scoring_is_the_same(family: str) -> None:
    model = _model(FIRST, family)
    torch.testing.assert_close(
        model.score(ROWS, batch_size=3), _whole(model, lambda: model.score(ROWS, batch_size=3)), rtol=1e-4, atol=1e-5
    )


def test_slots_go_through_the_body_once_for_all_batches(counted: Any) -> None:
    model = _model(FIRST)
    positions = counted(model)
    model.score(ROWS, batch_size=2)
    beginnings = [steps for rows, steps in positions.seen if rows == 1]
    assert len(beginnings) == 1 and beginnings[0] >= 7  # BOS and the slots
    assert all(rows == 2 for rows, _ in positions.seen[1:])
    model.score(ROWS[:2])  # and again for the next call: nothing is kept between calls
    assert sum(rows == 1 for rows, _ in positions.seen) == 2


def test_rows_one_by_one_share_what_two_of_them_begin_with(counted: Any) -> None:
    model = _model(FIRST)
    expected = _whole(model, lambda: model.score(ROWS, batch_size=1))
    positions = counted(model)
    for _ in range(2):
        positions.seen.clear()
        torch.testing.assert_close(model.score(ROWS, batch_size=1), expected, rtol=1e-4, atol=1e-5)
        lengths = [len(row) for row in model.collator().lay_out(ROWS)]
        assert len(positions.seen) == len(ROWS) + 1 and positions.seen[0] == (1, max(lengths))  # the first is whole
        shared = positions.seen[1][1]
        assert shared >= 7 and positions.total() == sum(lengths) - shared * (len(ROWS) - 2)
        assert model.backbone.sharing._before is None  # nothing is kept between calls


def test_a_moved_slot_is_seen_by_the_next_call() -> None:
    model = _model(FIRST)
    before = model.score(ROWS)
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).mul_(-3)
    after = model.score(ROWS)
    assert (before - after).abs().max() > 1e-3
    torch.testing.assert_close(after, _whole(model, lambda: model.score(ROWS)), rtol=1e-4, atol=1e-5)


def test_texts_are_computed_once_for_all_epochs(counted: Any) -> None:
    model = _model(LAST)
    columns = model.collator()(ROWS)
    positions = counted(model)
    _step(model, columns)
    first = positions.total()
    _step(model, columns)
    slots_on = 3  # of each row only the slots
    assert positions.seen[-1] == (len(ROWS), positions.seen[-1][1]) and positions.total() - first < first
    assert positions.seen[-1][1] >= slots_on


def test_an_edited_base_forgets_its_texts() -> None:
    model = _model(LAST)
    columns = model.collator()(ROWS)
    _step(model, columns)
    with torch.no_grad():
        model.backbone.body.layers[0].mlp.down_proj.weight.mul_(2)
    ours, theirs = _step(model, columns), _whole(model, lambda: _step(model, columns))
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)


def test_no_more_texts_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_reprogram.backbone.sharing.TEXTS", 5_000)
    model = _model(LAST)
    columns = model.collator()(ROWS)
    long_way = _whole(model, lambda: _step(model, columns))
    for _ in range(2):
        torch.testing.assert_close(_step(model, columns)[0], long_way[0], rtol=1e-4, atol=1e-5)
    known = model.backbone.sharing._known
    assert 0 < known.bytes <= 5_000 and len(known.texts) < len(ROWS)


def test_a_run_of_training_leaves_no_texts_behind(tmp_path: Path) -> None:
    model = _model(LAST)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, use_cpu=True, report_to=[], save_strategy="no", remove_unused_columns=False
    )
    trainer = make_trainer(model, arguments, train_dataset=ROWS)
    kept: list[int] = []
    step = trainer.training_step
    trainer.training_step = lambda *a: (step(*a), kept.append(len(model.backbone.sharing._known.texts)))[0]
    trainer.train()
    assert kept and all(kept) and model.backbone.sharing._known is None


def test_a_model_that_serves_lets_go_of_its_texts() -> None:
    """A plain Trainer does not say when it is done; its evaluations come in the midst, and end nothing."""
    model = _model(LAST)
    _step(model, model.collator()(ROWS))
    model.eval()
    with torch.no_grad():
        model(**model.collator()(ROWS))
    assert model.backbone.sharing._known.texts
    model.predict("so good")
    assert model.backbone.sharing._known is None


def test_states_before_the_slots_are_there_where_they_are_read() -> None:
    """A mean over the text needs what the short way leaves out."""
    base, tokenizer = tiny("llama")
    program = {"type": "prompt", "template": "{text} {prompt:3}"}
    mapping = {"type": "linear", "on": "state", "pool": "mean", "solver": "gradient"}
    model = get_reprogram_model(base, ReprogramConfig(program=program, mapping=mapping, labels=LABELS), tokenizer)
    columns = model.collator()(ROWS)
    torch.testing.assert_close(model(**columns).logits, _whole(model, lambda: model(**columns).logits))


def test_what_does_not_come_out_the_same_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(FIRST)
    right = model.score(ROWS)
    fresh = Sharing(model.backbone)
    monkeypatch.setattr(fresh, "_behind", lambda *a: torch.zeros(2, 8, model.backbone.base.config.hidden_size))
    assert fresh.proved["prefix"] is False
    model.backbone.sharing = fresh
    torch.testing.assert_close(model.score(ROWS), right, rtol=1e-4, atol=1e-5)


def test_bases_that_see_both_ways_share_nothing() -> None:
    assert all(_sharing(family) is None for family in ("bert", "t5"))


def _sharing(family: str) -> Sharing | None:
    try:
        return _model("{prompt:2} {text} it was{answer}", family).backbone.sharing
    except ReprogramError as error:  # pragma: no cover
        raise AssertionError(str(error)) from error
