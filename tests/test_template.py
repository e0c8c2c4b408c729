"""The template language: what stands where, and who gets the spaces (N14, N15)."""

from __future__ import annotations

import pytest

from hf_reprogram.errors import TemplateError
from hf_reprogram.template import Answer, Column, Slots, Words, columns, has_answer, parse, slot_count, slot_groups


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        (
            "{prompt:5} {text} {prompt:5} It was{answer}",
            (Slots(0, 5), Column("text", " "), Slots(5, 5), Words(" It was"), Answer()),
        ),
        ("{text}", (Column("text"),)),
        (" {text} ", (Column("text"),)),
        ("{text} {text_pair}", (Column("text"), Column("text_pair", " "))),
        ("Review: {text}{answer}", (Words("Review:"), Column("text", " "), Answer())),
        ("{text} so {answer}", (Column("text"), Words(" so"), Answer())),
        ("{text} so {answer}.", (Column("text"), Words(" so"), Answer(), Words("."))),
        ("{prompt:1} {prompt:2} {text}", (Slots(0, 1), Slots(1, 2), Column("text", " "))),
        ("{prompt:1}Say {text}", (Slots(0, 1), Words("Say"), Column("text", " "))),
        ("{text}\nIt is a{answer}", (Column("text"), Words("\nIt is a"), Answer())),
        ("{{x}} {text}", (Words("{x}"), Column("text", " "))),
        ("{text} ends.", (Column("text"), Words(" ends."))),
        ("  Once {text}", (Words("Once"), Column("text", " "))),
        ("{a:2}{text}{b:3}", (Slots(0, 2), Column("text"), Slots(2, 3))),
    ],
)
def test_pieces(template: str, pieces: tuple) -> None:
    assert parse(template) == pieces


def test_groups_are_different_slots_numbered_left_to_right() -> None:
    pieces = parse("{prompt:5} {text} {prompt:5}")
    assert slot_groups(pieces) == [Slots(0, 5), Slots(5, 5)]
    assert slot_count(pieces) == 10


def test_columns_are_named_once_in_order() -> None:
    assert columns(parse("{b} {a} {b}")) == ["b", "a"]
    assert has_answer(parse("{a}{answer}")) and not has_answer(parse("{a}"))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{text}{answer}{answer}", "2 answer slots"),
        ("{prompt:5}{answer}", "no column"),
        ("{text} {", "lonely '{' at position 7 of '{text} {'. Fix: write {{ for a brace"),
        ("{text} }", "lonely '}' at position 7 of '{text} }'. Fix: write }} for a brace"),
        ("{text} It was{answer", "Fix: {answer} for a field, or write {{ for a brace"),
        ("{prompt:5 {text}", "Fix: {prompt:5} for a field, or write {{ for a brace"),
        ("Say text}", "Fix: {text} for a field, or write }} for a brace"),
        ("{text} { answer }", "Fix: {answer}"),
        ("{prompt 5} {text}", "Fix: {prompt:5}"),
        ("{text} {prompt:0}", "{prompt:N} with N from 1"),
        ("{text} {prompt:-1}", "{prompt:N}"),
        ("{text} {prompt:5000}", "from 1 to 4096"),
        ("{text} {prompt:5=a}", "shares slots"),
        ("{text} {answer:2}", "{prompt:N}"),
        ("{te xt}", "no field"),
        ("{}", "no field"),
        (None, "a string"),
        (7, "a string"),
    ],
)
def test_what_cannot_be_read_says_so(template: object, says: str) -> None:
    with pytest.raises(TemplateError, match="PromptConfig.template") as error:
        parse(template, "PromptConfig.template")  # type: ignore[arg-type]
    assert says in str(error.value)
