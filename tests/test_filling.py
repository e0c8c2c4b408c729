"""Filling: which mask comes first, what stands in its place for the next, texts that go on, draws."""

from __future__ import annotations

import math
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from torch import Tensor

import hf_reprogram as hr
from hf_reprogram.data.targets import Aim
from hf_reprogram.data.text import LaidOut
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.filling import best, drawn, fill
from hf_reprogram.symbols import Symbols, Targets
from hf_reprogram.testing import tiny


MASK = 9
AB = Targets(Symbols(("a", "b")))


def _aim(**more: Any) -> Aim:
    return Aim(more.pop("targets", AB), more.pop("codes", (~0, ~1)), more.pop("mask", MASK), "<mask>", {}, **more)


class _Options:
    def __init__(self, order: str = "confident", most: int = 3) -> None:
        self.order, self.most = order, most


class _Oracle:
    """Knows 'a' with probability 0.6 at the first mask and 'b' with 0.9 at the second; once it sees the 'b', the first
    is a 'b' with 0.7."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, rows: list[LaidOut]) -> list[Tensor]:
        found = []
        for row in rows:
            self.asked.append(list(row.reads))
            known = {1: 0.3 if row.ids[3] == ~1 else 0.6, 3: 0.1}  # probability of 'a'
            found.append(torch.tensor([[known[at], 1 - known[at]] for at in row.reads]).log())
        return found


def _row() -> LaidOut:
    return LaidOut(None, ids=[2, MASK, ~0, MASK, 3], slots=[-1] * 5)


class TestOrder:
    def test_the_most_certain_comes_first_and_the_others_see_it(self) -> None:
        oracle = _Oracle()
        row = _row()
        filled = fill([row], _aim(), _Options(), oracle, None)[0]
        assert filled.symbols == [1, 1] and oracle.asked == [[1, 3], [1]]
        assert filled.score == pytest.approx(math.sqrt(0.7 * 0.9))
        assert row.ids == [2, MASK, ~0, MASK, 3]  # the caller's row is as it was

    def test_once_asks_once(self) -> None:
        oracle = _Oracle()
        filled = fill([_row()], _aim(), _Options("once"), oracle, None)[0]
        assert filled.symbols == [0, 1] and oracle.asked == [[1, 3]]
        assert filled.score == pytest.approx(math.sqrt(0.6 * 0.9))

    def test_left_begins_on_the_left(self) -> None:
        oracle = _Oracle()
        assert fill([_row()], _aim(), _Options("left"), oracle, None)[0].symbols == [0, 1]
        assert oracle.asked == [[1, 3], [3]]

    def test_what_cannot_stand_in_a_row_is_refused_where_another_mask_would_see_it(self) -> None:
        aim = _aim(codes=(None, None))
        with pytest.raises(DataError, match="'b' is read, and cannot stand in a row.*order='once'"):
            fill([_row()], aim, _Options(), _Oracle(), None)
        assert fill([_row()], aim, _Options("once"), _Oracle(), None)[0].symbols == [0, 1]


class TestGoingOn:
    @staticmethod
    def _run(script: list[int]) -> Any:
        """Says the next symbol of a script, by how many symbols the row has."""

        def run(rows: list[LaidOut]) -> list[Tensor]:
            return [torch.eye(2)[script[len(row.ids) - 1]].clamp(min=0.2).log()[None] for row in rows]

        return run

    def test_until_the_most_or_the_base_s_length(self) -> None:
        rows, run = [LaidOut(None, ids=[~0], slots=[-1])], self._run([1, 0, 1, 1])
        aim = _aim(mask=None)
        assert fill(rows, aim, _Options(most=3), run, None)[0].symbols == [1, 0, 1]
        assert fill(rows, aim, _Options(most=9), run, 2)[0].symbols == [1, 0]

    def test_until_the_end_which_is_not_written(self) -> None:
        aim = _aim(mask=None, targets=Targets(Symbols(("a", ".")), end=1))
        found = fill([LaidOut(None, ids=[~0], slots=[-1])], aim, _Options(most=9), self._run([0, 0, 1]), None)
        assert found[0].symbols == [0, 0] and len(found[0].log_probs) == 3  # that of the end too


class TestModels:
    def _model(self, family: str, **options: Any) -> hr.ReprogramModel:
        base, tokenizer = tiny(family)
        config = hr.ReprogramConfig(
            program=hr.ProjectionConfig(symbols=ascii_lowercase),
            mapping=hr.TokensConfig(**{"symbols": ascii_lowercase, "most": 3, **options}),
        )
        return hr.get_reprogram_model(base, config, tokenizer)

    def test_greedy_generation_is_the_loop_by_hand(self) -> None:
        model, text = self._model("gpt2"), "ab"
        found = model.predict("ab")[0]
        for _ in range(3):
            with torch.no_grad():
                logits = model(**model.collator().stack(model.collator().lay_out([{"text": text}], False))).logits
            text += ascii_lowercase[int(logits[0, 0].argmax())]
        assert found["sequence"] == text == "ab" + found["text"]

    def test_filling_by_hand(self) -> None:
        """The surest mask is replaced by its symbol in the text, and the rest is asked again."""
        model, text = self._model("bert"), "a<mask>c<mask><mask>"
        found = model.predict(text)[0]["sequence"]
        while "<mask>" in text:
            with torch.no_grad():
                logits = model(**model.collator().stack(model.collator().lay_out([{"text": text}], False))).logits[0]
            which = int(logits.softmax(-1).amax(-1).argmax())
            parts = text.split("<mask>")
            symbol = ascii_lowercase[int(logits[which].argmax())]
            text = "<mask>".join(parts[: which + 1]) + symbol + "<mask>".join(parts[which + 1 :])
        assert found == text

    def test_batches_and_order_change_nothing(self) -> None:
        model = self._model("bert")
        rows = ["a<mask>c", "<mask><mask>", "abc<mask>efg<mask>"]
        together = model.predict(rows, batch_size=2)
        assert [a["text"] for a in together] == [model.predict(row)[0]["text"] for row in rows]

    def test_draws_follow_their_generator_and_cold_ones_the_best(self) -> None:
        model = self._model("bert", order="once")
        draw = [model.sample("a<mask>c<mask>", 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
        assert draw[0] == draw[1] and len(draw[0]) == 1 and len(draw[0][0]) == 5
        assert len({answer["text"] for answer in draw[0][0]}) > 1
        cold = model.sample("a<mask>c<mask>", 3, temperature=1e-4, generator=torch.Generator().manual_seed(3))[0]
        assert {answer["text"] for answer in cold} == {model.predict("a<mask>c<mask>")[0]["text"]}

    def test_what_cannot_be_drawn(self) -> None:
        from hf_reprogram.testing import build, program_config

        with pytest.raises(UsageError, match="temperature.*0.*above 0"):
            self._model("bert").sample("a<mask>", temperature=0)
        with pytest.raises(UsageError, match="reads no symbols at positions"):
            build(program_config("prompt"), "bert").sample("so good")

    def test_evaluate_recovers_what_predict_says(self) -> None:
        model = self._model("bert")
        texts = ["a<mask>c<mask>", "<mask>b"]
        rows = [{"text": t, "label": a["text"]} for t, a in zip(texts, model.predict(texts), strict=True)]
        found = model.evaluate(rows)
        assert found["recovery"] == 1.0 and found["n"] == 2
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-5)
        assert found["loss"] == pytest.approx(model(**model.collator()(rows)).loss.item(), rel=1e-4)

    def test_folded_is_unfolded(self) -> None:
        model = self._model("bert")
        columns = model.collator()([{"text": "a<mask>c"}])
        with torch.no_grad():
            before = model(**columns).logits
            model.fold()
            assert torch.allclose(model(**columns).logits, before, atol=1e-6)
        config = model.peft_config["default"]
        assert (config.program.type, config.program.form, config.mapping.form) == ("dictionary", "free", "free")
        assert sum(p.numel() for p in model.base_model.state("default").values()) == 26 * 32 + 26 * 33


# Template, row, {where each fill stands in the whole: its number among the fills}, the whole but for these.
PLACES = {
    "answer first": ("{answer} is {text}", {"text": "a<mask>c"}, {1: 1}, "a?c"),
    "answer last": ("{text} is{answer}", {"text": "a<mask>c"}, {1: 0}, "a?c"),
    "answer between": ("{a} is {answer} or {b}", {"a": "a<mask>", "b": "<mask>c"}, {1: 0, 3: 2}, "a? ?c"),
    "mask in the second column": ("{a} is {b}", {"a": "ab", "b": "c<mask>"}, {4: 0}, "ab c?"),
    "masks in both": ("{a} is {b}", {"a": "a<mask>", "b": "<mask><mask>"}, {1: 0, 3: 1, 4: 2}, "a? ??"),
    "mask of the template": ("<mask> is {text}", {"text": "a<mask>"}, {1: 1}, "a?"),
    "twice": ("{text} is {text}", {"text": "a<mask>"}, {1: 0}, "a?"),
}


@pytest.mark.parametrize(("template", "row", "places", "rest"), PLACES.values(), ids=PLACES)
def test_a_fill_stands_where_it_was_asked_for(
    template: str, row: dict[str, Any], places: dict[int, int], rest: str
) -> None:
    """In what is predicted, drawn, and given by the pipeline."""
    base, tokenizer = tiny("bert")
    program = hr.ProjectionConfig(symbols=ascii_lowercase, template=template)
    config = hr.ReprogramConfig(program=program, mapping=hr.TokensConfig(symbols=ascii_lowercase, order="once"))
    model = hr.get_reprogram_model(base, config, tokenizer)
    draws = model.sample(row, 8, temperature=50.0, generator=torch.Generator().manual_seed(0))[0]
    assert len({answer["text"] for answer in draws}) > 1
    for answer in [*draws, *model.predict(row), *hr.pipeline("fill-mask", model)([row])]:
        whole = list(rest)
        for at, number in places.items():
            whole[at] = answer["text"][number]
        assert answer["sequence"] == "".join(whole)


def test_what_is_written_follows_all_columns() -> None:
    base, tokenizer = tiny("gpt2")
    program = hr.ProjectionConfig(symbols=ascii_lowercase, template="{a} {b}")
    config = hr.ReprogramConfig(program=program, mapping=hr.TokensConfig(symbols=ascii_lowercase, most=2))
    model = hr.get_reprogram_model(base, config, tokenizer)
    (answer,) = model.predict({"a": "ab", "b": "c"})
    assert answer["sequence"] == "ab c" + answer["text"]


def test_picks() -> None:
    shares = torch.tensor([[0.1, 0.9], [0.8, 0.2]]).log()
    assert best(shares).tolist() == [1, 0]
    generator = torch.Generator().manual_seed(0)
    many = torch.stack([drawn(1.0, generator)(shares) for _ in range(400)]).float().mean(0)
    assert many.tolist() == pytest.approx([0.9, 0.2], abs=0.06)
    cold = torch.stack([drawn(0.5, generator)(shares) for _ in range(400)]).float().mean(0)
    assert cold.tolist() == pytest.approx([0.81 / 0.82, 0.04 / 0.68], abs=0.05)
