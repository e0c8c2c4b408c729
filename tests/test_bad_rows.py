"""Bad rows and labels: one table of what the collator refuses, and nothing of the model changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import pandas as pd
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import DataError, ReprogramError, UsageError
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import LABELS, ROWS, build, program_config
from hf_reprogram.training.trainer import make_trainer
from tests.artefact_kit import check, nothing_changes


Case = tuple[Callable[[ReprogramModel], Any], type[ReprogramError], str]


def _rows(*rows: Any, features: Any = None) -> Callable[[ReprogramModel], Any]:
    return lambda model: model.collator(features=features)(list(rows))


def _labelled(label: Any) -> dict[str, Any]:
    return {"text": "good", "label": label}


def _class_label(*names: str) -> datasets.Features:
    return datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})


NUMBERS = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("int64")})

CASES: dict[str, Case] = {
    # Columns
    "an unknown column": (
        _rows({"txt": "good"}),
        DataError,
        "rows[0]['text'] ... no such column ... did you mean 'txt'",
    ),
    "a missing column": (_rows(ROWS[0], {"a": 1}), DataError, "rows[1]['text'] ... the columns ['text']"),
    "only labels": (_rows({"label": "positive"}), UsageError, "rows[0]['text'] ... remove_unused_columns=False"),
    "nothing at all": (_rows({}), UsageError, "rows[0]['text'] ... remove_unused_columns=False"),
    "an empty text": (_rows({"text": ""}), DataError, "rows[0]['text'] ... '' is empty ... drop such rows"),
    "a blank text": (_rows(ROWS[0], {"text": " \n\t"}), DataError, "rows[1]['text'] ... is empty"),
    "no text": (_rows({"text": None}), DataError, "rows[0]['text'] ... None is a NoneType ... a text"),
    "a list for a text": (_rows({"text": ["good"]}), DataError, "rows[0]['text'] ... is a list ... a text"),
    "a truth for a text": (_rows({"text": True}), DataError, "rows[0]['text'] ... True is a bool ... a text"),
    "bytes for a text": (_rows({"text": b"good"}), DataError, "rows[0]['text'] ... b'good' is a bytes ... a text"),
    "a number for a row": (_rows(ROWS[0], 7), DataError, "rows[1] ... 7 is a int ... a text or a dict"),
    "a list for a row": (_rows(["good"]), DataError, "rows[0] ... is a list ... a text or a dict"),
    "what pandas writes for a missing text": (
        _rows(ROWS[0], {"text": float("nan")}),
        DataError,
        "rows[1]['text'] ... nan is a missing value ... a text ... drop such rows",
    ),
    "half of a surrogate pair": (
        _rows({"text": "a\ud800"}),
        DataError,
        "rows[0]['text'] ... 'a\\ud800' ... surrogate",
    ),
    "a table of pandas": (
        lambda m: m.predict(pd.DataFrame(ROWS)),
        DataError,
        "rows ... a DataFrame ... Dataset.from_pandas(frame), or frame.to_dict('records')",
    ),
    "a table of pandas in a pipeline": (
        lambda m: hr.pipeline(model=m)(pd.DataFrame(ROWS)),
        DataError,
        "pipeline(...)(rows) ... a DataFrame",
    ),
    "a table of pandas to train on": (
        lambda m: make_trainer(m, None, pd.DataFrame(ROWS)),
        DataError,
        "train_dataset ... a DataFrame",
    ),
    "no rows": (_rows(), DataError, "rows ... empty ... at least one row"),
    "no rows to predict": (lambda m: m.predict([]), DataError, "rows ... empty"),
    "a number for rows": (lambda m: m.predict(7), DataError, "rows ... 7 is a int"),
    "nothing for rows": (lambda m: m.predict(None), DataError, "rows ... None is a NoneType"),
    # Labels
    "an unknown label": (
        _rows(_labelled("positiv")),
        DataError,
        "rows[0]['label'] ... 'positiv' ... did you mean 'positive'",
    ),
    "a label in capitals": (_rows(_labelled("Positive")), DataError, "rows[0]['label'] ... did you mean 'positive'"),
    "an empty label": (_rows(_labelled("")), DataError, "rows[0]['label'] ... '' ... Known: 'negative', 'positive'"),
    "a number that nothing names": (
        _rows(_labelled(1)),
        DataError,
        "rows[0]['label'] ... 1 is an integer ... ['negative', 'positive'] ... collator(features=dataset.features)",
    ),
    "a number of numpy's": (
        _rows(_labelled(torch.tensor(1).numpy()[()])),
        DataError,
        "nothing says which label it means",
    ),
    "a number of an unnamed feature": (_rows(_labelled(1), features=NUMBERS), DataError, "nothing says which label"),
    "a number outside": (
        _rows(_labelled(2), features=LABELS),
        DataError,
        "rows[0]['label'] ... 2 is outside ... 0 to 1",
    ),
    "a negative number": (_rows(_labelled(-1), features=LABELS), DataError, "rows[0]['label'] ... -1 is outside"),
    "names that are not ours": (
        _rows(_labelled(1), features=_class_label("bad", "fine")),
        DataError,
        "rows[0]['label'] ... 'fine' ... Known: 'negative'",
    ),
    "a fraction": (
        _rows(_labelled(1.0), features=LABELS),
        DataError,
        "rows[0]['label'] ... 1.0 ... one of ['negative', 'positive']",
    ),
    "a truth": (_rows(_labelled(True), features=LABELS), DataError, "rows[0]['label'] ... True ... one of"),
    "a list": (_rows(_labelled(["positive"])), DataError, "rows[0]['label'] ... ['positive'] ... one of"),
    "labels on some rows": (_rows(ROWS[0], {"text": "good"}), DataError, "rows[1]['label'] ... missing"),
    "features that are none": (lambda m: m.collator(features=7), DataError, "features ... 7 ... dataset.features"),
    "features of one name": (
        lambda m: m.collator(features="label"),
        DataError,
        "features ... 'label' ... dataset.features",
    ),
    "no labels to evaluate by": (lambda m: m.evaluate(["good"]), DataError, "rows[0] ... has no label"),
    # Sounds for a base that reads
    "a sound": (
        lambda m: m.predict([{"audio": "clip.wav"}]),
        DataError,
        "rows[0]['text'] ... no such column, but 'audio', and the program reads text ... whose base hears",
    ),
    # Programs of rows
    "a program that is not there": (
        _rows({"text": "good", "adapter": "defalt"}),
        DataError,
        "rows[0]['adapter'] ... 'defalt' ... did you mean 'default' ... collator() again",
    ),
    "a list of programs": (
        _rows({"text": "good", "adapter": ["default"]}),
        DataError,
        "rows[0]['adapter'] ... ['default']",
    ),
    "a number of a program": (lambda m: m.predict([{"text": "good", "adapter": 0}]), ReprogramError, "adapter ... 0"),
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
