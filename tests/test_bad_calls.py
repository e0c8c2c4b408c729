"""Bad columns and calls on a model that works: one table, and nothing of the model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, ReprogramError, UsageError
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import ROWS, build, program_config
from tests.artefact_kit import check, nothing_changes


Case = tuple[Callable[[ReprogramModel], Any], type[ReprogramError], str]


def _forward(**changes: Any) -> Callable[[ReprogramModel], Any]:
    """The model's own columns, some of them changed (given as a function) or left out (None)."""

    def call(model: ReprogramModel) -> Any:
        columns = model.collator()(ROWS[:2])
        for name, change in changes.items():
            columns[name] = change(columns.get(name)) if callable(change) else change
        return model(**columns)

    return call


CASES: dict[str, Case] = {
    # Columns without a layout
    "plain ids": (
        lambda m: m(torch.tensor([[7, 8, 9]])),
        UsageError,
        "slot_index ... plain input_ids ... model.collator()",
    ),
    "no slots": (_forward(slot_index=None), UsageError, "slot_index ... missing ... model.collator()"),
    "no answer": (_forward(answer_index=None), UsageError, "answer_index ... missing ... model.collator()"),
    "no ids": (_forward(input_ids=None), UsageError, "input_ids ... missing ... model.collator()"),
    "an answer outside": (_forward(answer_index=lambda t: t + 99), UsageError, "answer_index ... positions"),
    "an answer before the row": (_forward(answer_index=lambda t: t - 99), UsageError, "answer_index ... positions"),
    "a mask of another length": (
        _forward(attention_mask=lambda t: t[:, 1:]),
        UsageError,
        "attention_mask ... of shape",
    ),
    "slots of another program": (_forward(slot_index=lambda t: t + 9), UsageError, "slot_index ... 13 ... 5 slots"),
    "slots for other rows": (_forward(slot_index=lambda t: t[:1]), UsageError, "slot_index ... shape"),
    "a label outside": (_forward(labels=lambda t: t + 2), UsageError, "labels ... 3 is outside the labels ... 0 to 1"),
    "a label below": (_forward(labels=lambda t: t - 2), UsageError, "labels ... -2 ... 0 to 1"),
    "labels that are fractions": (_forward(labels=lambda t: t.float()), UsageError, "labels ... float32 ... int64"),
    "labels of other rows": (_forward(labels=lambda t: t[:1]), UsageError, "labels ... 1 ... 2 rows"),
    # Names of programs
    "an unknown program": (
        _forward(adapter_names=["defalt"] * 2),
        UsageError,
        "adapter_names ... 'defalt' ... did you mean 'default'",
    ),
    "too few programs": (_forward(adapter_names=["default"]), UsageError, "adapter_names ... 1 names for 2 rows"),
    "a program that is a list": (
        _forward(adapter_names=[["default"]] * 2),
        UsageError,
        "adapter_names ... ['default']",
    ),
    "one name for all": (_forward(adapter_names="default"), UsageError, "adapter_names ... one name per row"),
    "setting an unknown one": (
        lambda m: m.set_adapter("defalt"),
        UsageError,
        "adapter_name ... 'defalt' ... did you mean 'default'",
    ),
    "setting two": (
        lambda m: m.set_adapter(["default", "x"]),
        UsageError,
        "adapter_name ... one name ... 'adapter' column",
    ),
    "setting none": (lambda m: m.set_adapter(None), UsageError, "adapter_name ... None ... one name"),
    "deleting an unknown one": (
        lambda m: m.delete_adapter("x"),
        UsageError,
        "adapter_name ... 'x' ... Known: 'default'",
    ),
    "deleting the last": (
        lambda m: m.delete_adapter("default"),
        UsageError,
        "'default' is the last program ... unload()",
    ),
    "labels of an unknown one": (
        lambda m: m.label_names("x"),
        UsageError,
        "adapter_name ... 'x' ... Known: 'default'",
    ),
    # Verbs that make no sense
    "merging": (lambda m: m.merge_and_unload(), UsageError, "merge_and_unload ... cannot be merged ... unload()"),
    "merging in place": (lambda m: m.merge_adapter(), UsageError, "cannot be merged"),
    "unmerging": (lambda m: m.unmerge_adapter(), UsageError, "merged"),
    "fitting what estimates nothing": (
        lambda m: m.fit_mapping(ROWS),
        UsageError,
        "fit_mapping ... 'verbalizer' estimates nothing",
    ),
    "batches of none": (lambda m: m.predict("good", batch_size=0), ReprogramError, "batch_size ... 0 ... 1"),
    "batches of less": (lambda m: m.score("good", batch_size=-1), ReprogramError, "batch_size ... -1 ... 1"),
    "no labels of a row": (lambda m: m.predict("good", top_k=0), ReprogramError, "top_k ... 0 ... 1"),
    "texts in the place of columns": (
        lambda m: m(["a text"]),
        UsageError,
        "input_ids ... a list ... model.predict(rows)",
    ),
    "names in the place of ids of labels": (
        _forward(labels=["positive"]),
        UsageError,
        "labels ... a list ... a tensor",
    ),
    "a batch without slots": (
        lambda m: m(**m.collator(disabled=True)(ROWS[:2])),
        UsageError,
        "slot_index ... missing ... model.collator()",
    ),
    "a seed that is a word": (
        lambda m: m.add_adapter("other", program_config("prompt"), seed="one"),
        ConfigError,
        "seed ... 'one' ... a whole number",
    ),
    "a dict for a generation config": (
        lambda m: m.generate("good", generation_config={"max_new_tokens": 2}),
        UsageError,
        "generate(generation_config) ... a dict ... GenerationConfig(max_new_tokens=8)",
    ),
    "batches of no rows in a pipeline": (
        lambda m: hr.pipeline("text-generation", m, batch_size=0)("good"),
        UsageError,
        "pipeline(batch_size) ... 0 ... from 1",
    ),
    "no folder": (
        lambda m: m.save_pretrained(None),
        UsageError,
        "save_pretrained(save_directory) ... None ... a folder",
    ),
    "an empty folder name": (lambda m: m.save_pretrained(""), UsageError, "'' ... a folder"),
    "symbols of a number": (lambda m: hr.target_symbols(5), ConfigError, "target_symbols(source) ... 5 is a int"),
    "reentrant checkpointing": (
        lambda m: m.gradient_checkpointing_enable({"use_reentrant": True}),
        UsageError,
        "use_reentrant=True ... use_reentrant=False",
    ),
}


@pytest.fixture(scope="module")
def model() -> ReprogramModel:
    """One model for the whole table: no case may leave a trace."""
    return build(program_config("prompt"), "llama")


@pytest.mark.parametrize(("call", "error", "says"), CASES.values(), ids=CASES)
def test_is_refused(model: ReprogramModel, call: Callable, error: type[ReprogramError], says: str) -> None:
    with nothing_changes(model):
        with pytest.raises(error) as raised:
            call(model)
        check(raised.value, says)
