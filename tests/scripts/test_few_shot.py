"""The few-shot benchmark: who is drawn, in which order they are learned, and what its table says."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import few_shot
from benchmarks.few_shot import Table, best_rate, summary
from benchmarks.few_shot_tasks import AG_NEWS, SST2, TREC, draw, in_turn, judged, read
from benchmarks.intervals import kept


def rows(count: int, label: str, words: int) -> list[dict[str, str]]:
    return [{"text": " ".join([f"{label}{i}", *["word"] * (words - 1)]), "label": label} for i in range(count)]


def test_labels_are_names(tmp_path: Path):
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "classes.json").write_text('["negative", "positive"]')
    with gzip.open(tmp_path / "sst2" / "validation.jsonl.gz", "wt") as file:
        file.write('{"text": "fine", "label": 1, "more": 2}\n{"text": "poor", "label": 0}\n')
    assert read(SST2, "validation", tmp_path) == [
        {"text": "fine", "label": "positive"},
        {"text": "poor", "label": "negative"},
    ]


def test_of_a_large_test_split_the_same_part_is_judged(tmp_path: Path):
    (tmp_path / "ag_news_10k").mkdir()
    (tmp_path / "ag_news_10k" / "classes.json").write_text(json.dumps(AG_NEWS.labels))
    with gzip.open(tmp_path / "ag_news_10k" / "test.jsonl.gz", "wt") as file:
        file.writelines(f'{{"text": "{i}", "label": {i % 4}}}\n' for i in range(1200))
    whole, part = judged(replace(AG_NEWS, judged=None), tmp_path), judged(AG_NEWS, tmp_path)
    assert len(whole) == 1200 and [row["text"] for row in whole[:2]] == ["0", "1"]
    assert len(part) == 1000 and part == judged(AG_NEWS, tmp_path) and part != whole[:1000]


def test_a_draw_is_seeded_balanced_and_has_no_scraps():
    train = [*rows(30, "positive", 6), *rows(30, "negative", 7), *rows(300, "positive", 5)]
    few = draw(SST2, train, 16, 3)
    assert Counter(row["label"] for row in few) == {"negative": 16, "positive": 16}
    assert min(len(row["text"].split()) for row in few) == 6
    assert few == draw(SST2, train, 16, 3) != draw(SST2, train, 16, 4)
    assert draw(SST2, train, 4, 3)[:4] == few[:4]  # a smaller draw is a part of the larger one


def test_classes_take_turns_and_every_row_comes_as_often_as_the_others():
    few = [*rows(4, "positive", 6), *rows(4, "negative", 6)]
    order = in_turn(few, 32, 0)
    assert [row["label"] for row in order] == ["positive", "negative"] * 16
    assert set(Counter(row["text"] for row in order).values()) == {4}
    assert order == in_turn(few, 32, 0) != in_turn(few, 32, 1)


def test_rows_of_a_class_are_joined_and_still_come_equally_often():
    few = [*rows(4, "positive", 2), *rows(4, "negative", 2)]
    order = in_turn(few, 8, 0, join=2)
    assert [row["label"] for row in order] == ["positive", "negative"] * 4
    parts = Counter(part for row in order for part in row["text"].split(" . "))
    assert parts == {row["text"]: 2 for row in few}


def test_the_recipe_stands_for_every_table():
    for table in (*few_shot.TABLES, *few_shot.CURVE):
        assert table.shots in table.task.steps
        assert table.swept <= table.controls <= table.draws
    assert json.dumps(few_shot.TABLES[0].task.verbalizer)  # as settings they go into the results
    assert replace(few_shot.TABLES[0], shots=64).title == "sst2, 64 per class"
    assert SST2.labels == ["negative", "positive"] and len(TREC.labels) == 6


def test_pefts_best_rate_is_chosen_on_the_draws_that_all_rates_had():
    table = Table(SST2, 16, draws=3).title
    cells = [
        kept(table, 0, "ours", [True, True]),
        kept(table, 0, "peft_prompt_tuning:0.01", [True, False]),
        kept(table, 0, "peft_prompt_tuning:0.03", [False, False]),
        kept(table, 1, "peft_prompt_tuning:0.03", [True, True]),
        kept("trec, 16 per class", 0, "ours", [True, True]),
    ]
    assert best_rate(cells, table) == 0.01
    told = {(row.task, row.method, row.metric): row.value for row in summary(cells)}
    assert told[table, "peft_prompt_tuning", "accuracy"] == 50
    assert told[table, "ours", "accuracy_gain_over:peft_prompt_tuning"] == 50
    assert told["trec, 16 per class", "ours", "accuracy"] == 100
    assert ("trec, 16 per class", "peft_prompt_tuning", "accuracy") not in told


@pytest.mark.slow
def test_a_quick_run_goes_through(tmp_path: Path, shared: Path, smollm2: Path, minilm: Path, monkeypatch):
    monkeypatch.setattr(few_shot, "SCRATCH", tmp_path)
    assert few_shot.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "few_shot.json").read_text())["rows"]
    methods = {row["method"] for row in found if row["task"] == "sst2, 4 per class"}
    assert {"ours", "calibrated", "probe", "probe:minilm", "peft_prompt_tuning", "random_source", "majority"} < methods
