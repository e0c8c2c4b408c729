"""Errors say where, what, what was expected and how to mend it; they travel from data workers in one piece."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path

import pytest
import torch

from hf_reprogram import errors
from hf_reprogram.data.text import TextCollator
from hf_reprogram.errors import DataError, ReprogramError, did_you_mean, nearest
from hf_reprogram.testing import build, program_config


PACKAGE = Path(errors.__file__).parent
CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, ReprogramError)]
RAISES = [
    (path.name, node.exc)
    for path in sorted(PACKAGE.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Raise)
    and isinstance(node.exc, ast.Call)
    and getattr(node.exc.func, "id", "") in {c.__name__ for c in CLASSES}
]


@pytest.mark.parametrize("cls", CLASSES)
class TestEveryClass:
    def test_travels_pickled_and_copied(self, cls: type[ReprogramError]) -> None:
        error = cls("PromptConfig.template", "no {answer}.", "one answer slot.", 'try "{text}{answer}".')
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is cls and str(again) == str(error)
            assert (again.where, again.what) == ("PromptConfig.template", "no {answer}.")
            assert (again.expected, again.fix) == ("one answer slot.", 'try "{text}{answer}".')

    def test_is_one_sentence_per_part(self, cls: type[ReprogramError]) -> None:
        assert str(cls("a", "b.", "c.", "d.")) == "a: b. Expected c. Fix: d"
        assert str(cls("a", "b")) == "a: b"
        assert str(cls("a", "b", fix="d")) == "a: b. Fix: d"

    def test_is_an_ordinary_error_too(self, cls: type[ReprogramError]) -> None:
        """Code that knows nothing of us catches ValueError, or RuntimeError for a call at the wrong time."""
        assert cls is ReprogramError or issubclass(cls, ValueError | RuntimeError)


@pytest.mark.parametrize(("name", "call"), RAISES, ids=[f"{n}:{c.lineno}" for n, c in RAISES])
def test_every_error_raised_says_what_to_do(name: str, call: ast.Call) -> None:
    """Where and what alone would leave the user without a next step."""
    assert len(call.args) + len(call.keywords) >= 3, f"{name}:{call.lineno} gives neither `expected` nor `fix`"


class TestNearest:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("promt", "prompt"),
            ("PROMPT", "prompt"),
            ("none", "none"),
            ("xyzzy", None),
            ("", None),
            (7, None),
            (None, "none"),
        ],
    )
    def test_nearest(self, name: object, found: str | None) -> None:
        assert nearest(name, ["prompt", "none"]) == found

    def test_case_of_the_known_name_is_kept(self) -> None:
        assert nearest("automodelforcausallm", ["AutoModelForCausalLM"]) == "AutoModelForCausalLM"

    def test_of_a_long_list_the_nearest_come_first(self) -> None:
        said = did_you_mean("labl 17", [f"label {i}" for i in range(20)])
        assert said.startswith("did you mean 'label 17'? Known: 'label 17', 'label 1', 'label 7', ")
        assert said.count("'label") == 13 and said.endswith(", ... and 8 more")

    def test_nothing_known(self) -> None:
        assert did_you_mean("x", []) == "Known: nothing"

    def test_generators_and_numbers_will_do(self) -> None:
        assert did_you_mean("3", (i for i in (1, 2, 30))) == "did you mean '30'? Known: '1', '2', '30'"


def test_a_worker_sends_our_error() -> None:
    """From a process of its own, with the row's number and the user's own value. Torch makes it anew from its text."""
    collator = build(program_config("prompt"), "llama").collator()
    assert isinstance(collator, TextCollator)
    loader = torch.utils.data.DataLoader([{"text": "good", "label": "positiv"}], collate_fn=collator, num_workers=1)
    with pytest.raises(DataError, match=r"rows\[0\]\['label'\]: unknown label 'positiv'.*did you mean 'positive'"):
        next(iter(loader))
