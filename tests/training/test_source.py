"""Rows from files of every kind, one shape in the end; what is set aside; rows that cannot be meant."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_reprogram.errors import DataError
from hf_reprogram.training.recipe import DataRecipe
from hf_reprogram.training.source import Source, folder_labels, load, set_aside


LABELS = ["negative", "positive"]
ROWS = [{"text": f"row, number {i}", "label": LABELS[i % 3 == 0], "extra": i} for i in range(12)]


def text_of(rows: list[dict[str, Any]], name: str) -> str:
    if name.startswith("rows.json"):
        return "\n".join(json.dumps(row) for row in rows) if "jsonl" in name else json.dumps(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), delimiter="\t" if "tsv" in name else ",")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def written(folder: Path, name: str = "rows.jsonl", rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / name
    if "parquet" in name:
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text_of(rows, name).encode()))
    else:
        path.write_text(text_of(rows, name))
    return str(path)


def read(train: Any, labels: list[str] | None = LABELS, wanted: tuple = ("text",), **data: Any) -> Source:
    return load(DataRecipe(train, **data), wanted, labels)


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl.gz", "rows.csv.gz"]
)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    found = read(written(tmp_path, name), validation_share=0.25)
    assert found.names is None
    assert sorted(map(str, [*found.train, *found.validation])) == sorted(
        str({"text": row["text"], "label": row["label"]}) for row in ROWS
    )


def test_several_files_and_patterns(tmp_path: Path) -> None:
    names = [written(tmp_path, f"rows.jsonl-{i}.jsonl", ROWS[4 * i : 4 * i + 4]) for i in range(3)]
    for given in (names, str(tmp_path / "*.jsonl")):
        found = read(given, validation_share=0.25)
        assert len(found.train) + len(found.validation) == 12


def test_texts_that_pandas_takes_for_nothing(tmp_path: Path) -> None:
    rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(["NA", "None", "null", "nan"] * 2)]
    found = read(written(tmp_path, "rows.csv", rows), validation_share=0.25)
    assert sorted(found.train["text"]) + sorted(found.validation["text"]) != [] and None not in found.train["text"]
    assert Counter([*found.train["text"], *found.validation["text"]]) == {"NA": 2, "None": 2, "null": 2, "nan": 2}


def test_columns_get_the_template_s_names(tmp_path: Path) -> None:
    rows = [{"review": "r", "text": "not this", "grade": label} for label in LABELS * 4]
    found = read(written(tmp_path, rows=rows), columns={"text": "review"}, label="grade")
    assert found.train[0] == {"text": "r", "label": "negative"}
    pairs = read(written(tmp_path, rows=rows), wanted=("a", "b"), columns={"a": "text", "b": "review"}, label="grade")
    assert pairs.train[0] == {"a": "not this", "b": "r", "label": "negative"}


class TestLabels:
    """As names, as integers that something names, as a dataset's own classes."""

    def test_integers_with_names(self, tmp_path: Path) -> None:
        rows = [{"text": "t", "label": i % 2} for i in range(8)]
        found = read(written(tmp_path, rows=rows), label_names=LABELS)
        assert found.names == LABELS and set(found.train["label"]) == {0, 1}

    def test_class_labels(self, tmp_path: Path) -> None:
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)})
        rows = datasets.Dataset.from_list([{"text": "t", "label": i % 2} for i in range(8)], features=features)
        rows.to_parquet(tmp_path / "rows.parquet")
        assert read(str(tmp_path / "rows.parquet")).names == LABELS


class TestSetAside:
    """A validation part of train: seeded, and each label in like shares."""

    rows = datasets.Dataset.from_list([{"text": str(i), "label": LABELS[i % 4 == 0]} for i in range(40)])

    def test_shares_of_the_labels(self) -> None:
        rest, part = set_aside(self.rows, 0.2, seed=0)
        assert Counter(part["label"]) == {"negative": 6, "positive": 2}
        assert Counter(rest["label"]) == {"negative": 24, "positive": 8}
        assert not set(part["text"]) & set(rest["text"])

    def test_the_seed_decides(self) -> None:
        first, again, other = (set_aside(self.rows, 0.2, seed)[1]["text"] for seed in (0, 0, 1))
        assert list(first) == list(again) != list(other)

    def test_a_label_of_one_row(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = datasets.Dataset.from_list([{"text": "t", "label": label} for label in "aaaaaab"])
        with caplog.at_level(logging.WARNING):
            rest, part = set_aside(rows, 0.3, seed=0)
        assert len(rest) + len(part) == 7 and "drawn without regard to labels" in caplog.text


def test_a_validation_file_is_taken_as_it_is(tmp_path: Path) -> None:
    train, validation = written(tmp_path), written(tmp_path, "rows.csv", ROWS[:3])
    found = read(train, validation=validation)
    assert len(found.train) == 12 and list(found.validation["text"]) == [row["text"] for row in ROWS[:3]]


def test_a_stream(tmp_path: Path) -> None:
    validation = written(tmp_path, "rows.csv", ROWS[:3])
    found = read(written(tmp_path), validation=validation, streaming=True, columns={})
    assert not hasattr(found.train, "__len__") and len(found.validation) == 3
    first, again = list(found.train), list(found.train)
    assert first == again and set(first[0]) == {"text", "label"}
    assert sorted(row["text"] for row in first) == sorted(row["text"] for row in ROWS)


def test_folders_of_sounds_name_the_labels(tmp_path: Path) -> None:
    for name in ("yes/1.wav", "yes/2.WAV", "no/deep/3.flac", "loose.wav", "texts/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert folder_labels(DataRecipe(str(tmp_path))) == ["deep", "yes"]  # the folder that holds the file
    for other in (str(tmp_path / "texts"), "owner/data", [str(tmp_path)]):
        assert folder_labels(DataRecipe(other)) is None


def _rows(values: list[Any]) -> list[dict[str, Any]]:
    return [{"text": "t", "label": value} for value in values]


# Rows that are written, options, and what the error says.
BAD: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "no label column": (
        [{"text": "t", "labels": "positive"}] * 4,
        {},
        "data.train: no label column 'label'.*data.label: COLUMN; did you mean 'labels'",
    ),
    "no text column": (
        [{"sentence": "t", "label": "positive"}] * 4,
        {},
        "no column 'text'.*data.columns: {text: COLUMN}",
    ),
    "a column that the template has not": (
        ROWS,
        {"columns": {"txt": "text"}},
        "data.columns.txt.*did you mean 'text'",
    ),
    "a label for a text": (ROWS, {"columns": {"text": "label"}}, "name a column twice"),
    "an unknown label": (_rows(["positive", "negativ"] * 4), {}, "unknown label 'negativ'.*did you mean 'negative'"),
    "integers that nothing names": (
        _rows([0, 1] * 4),
        {},
        r"labels are integers \[0, 1\], and nothing says.*data.label_names",
    ),
    "names that the config has not": (
        _rows([0, 1] * 4),
        {"label_names": ["neg", "positive"]},
        "unknown label 'neg'.*did you mean 'negative'.*data.label_names gives ids other names",
    ),
    "rows without a label": (
        _rows(["positive", None] * 4),
        {},
        r"4 rows have no label \(the first is row 1: None\).*drop them",
    ),
    "one row": (ROWS[:1], {}, "1 row, of which none can be set aside"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_rows_that_cannot_be_meant(case: tuple[list[dict[str, Any]], dict[str, Any], str], tmp_path: Path) -> None:
    rows, options, says = case
    with pytest.raises(DataError, match=says):
        read(written(tmp_path, rows=rows), **options)


def test_targets_that_are_no_number(tmp_path: Path) -> None:
    name = written(tmp_path, "rows.parquet", _rows([0.0, float("nan"), 1.0]))
    with pytest.raises(DataError, match=r"1 rows have no label \(the first is row 1: nan\)"):
        read(name)


class TestFilesThatCannotBeRead:
    """Missing, empty, damaged, of no kind that is known."""

    def test_missing(self, tmp_path: Path) -> None:
        written(tmp_path, "rows.jsonl")
        with pytest.raises(DataError, match="data.train: .*row.jsonl is no file.*did you mean 'rows.jsonl'"):
            read(str(tmp_path / "row.jsonl"))
        with pytest.raises(DataError, match="data.validation: .*v.csv is no file"):
            read(written(tmp_path), validation=str(tmp_path / "v.csv"))
        with pytest.raises(DataError, match="nowhere is not there or has no files"):
            read(str(tmp_path / "nowhere" / "rows.csv"))
        with pytest.raises(DataError, match=r"\*.csv is no file"):
            read(str(tmp_path / "*.csv"))

    def test_of_no_kind_that_is_known(self, tmp_path: Path) -> None:
        (tmp_path / "rows.xlsx").write_text("x")
        with pytest.raises(DataError, match="files of type .xlsx.*one of .jsonl, .json"):
            read(str(tmp_path / "rows.xlsx"))
        with pytest.raises(DataError, match="files of type .csv, .jsonl"):
            read([written(tmp_path), written(tmp_path, "rows.csv")])

    def test_empty_or_damaged(self, tmp_path: Path) -> None:
        for name, content in (
            ("rows.jsonl", b""),
            ("rows.parquet", b"no"),
            ("rows.jsonl.gz", b"no"),
            ("rows.json", b"{"),
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=f"{name}' (could not be read|has no rows)"):
                read(str(tmp_path / name))

    def test_a_hub_name_without_the_hub(self) -> None:
        with pytest.raises(DataError, match="data.train: 'nobody/nothing' could not be read.*a file ends with .jsonl"):
            read("nobody/nothing")
