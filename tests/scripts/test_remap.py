"""The vocabulary benchmark: who is drawn, what is a symbol, that every cell runs, and what its table says."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks import remap
from benchmarks.intervals import kept
from benchmarks.remap import GAP, SHARE, Plan, summary
from benchmarks.remap_tasks import DNA, NAMES, OTHER, TREC, draw, read

from hf_reprogram.testing import tiny


def test_a_draw_has_every_label_twice_and_no_row_on_both_sides() -> None:
    rows = [{"text": f"t{i}", "label": "rare" if i in (5, 50) else "common"} for i in range(100)]
    train, validation = draw(rows, (10, 20), 3)
    assert Counter(row["label"] for row in train) == {"common": 8, "rare": 2}
    assert len(train) == 10 and len(validation) == 20
    assert not {row["text"] for row in train} & {row["text"] for row in validation}
    assert draw(rows, (10, 20), 3)[0] == train != draw(rows, (10, 20), 4)[0]


def test_symbols_are_letters_or_the_words_that_stand_twice() -> None:
    rows = [{"text": "who was who"}, {"text": "was it"}]
    program = TREC.program(rows)
    assert program["symbols"] == ["was", "who", OTHER] and program["unknown"] == OTHER and program["spaced"]
    assert NAMES.program(rows)["symbols"][:2] == ["a", "b"] and NAMES.program(rows)["unknown"] == "."


def test_rows_are_in_lower_case_and_dna_is_its_middle(tmp_path: Path) -> None:
    (tmp_path / "dna_splice").mkdir()
    (tmp_path / "dna_splice" / "classes.json").write_text(json.dumps(list(DNA.labels)))
    with gzip.open(tmp_path / "dna_splice" / "test.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "T" * 10 + "ACGT" * 10 + "G" * 10, "label": 1}) + "\n")
    assert read(DNA, "test", tmp_path) == [{"text": "acgt" * 6, "label": "intron-exon (IE)"}]


class TestCells:
    """Every cell on a tiny victim, and rows whose label is their first letter."""

    plan = Plan(rows=(24, 12, 12), seeds=1, epochs=1, score_epochs=1, samples=2)
    task = replace(NAMES, labels=("a", "b"), candidates=20, few_candidates=10)

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        generator = random.Random(0)
        texts = ["".join(generator.choices("abc", k=4)) for _ in range(80)]
        rows = [{"text": label + text, "label": label} for text in texts for label in "ab"]
        monkeypatch.setattr(remap, "read", lambda *_: list(rows))
        monkeypatch.setattr(remap, "victim", lambda _: tiny("bert-classifier"))

    def test_simple(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # A word that the tiny tokenizer knows beside each name: else all are one unknown token, which no probe tells.
        rows = [{**row, "text": f"{row['text']} {'good' if row['label'] == 'a' else 'bad'}"} for row in remap.read()]
        monkeypatch.setattr(remap, "read", lambda *_: list(rows))
        found = {row.method: row for row in remap.simple(self.plan, self.task, 0)}
        assert set(found) == {"majority", "classical:tfidf", "probe"}
        assert all(row.n == 12 for row in found.values())

    @pytest.mark.parametrize(
        ("source", "on", "name", "methods"),
        [
            (None, "state", "", ["map_only", "ours", "ours:soft"]),
            (None, "classes", ":two_scores", ["map_only:two_scores", "ours:two_scores", "ours:two_scores_soft"]),
            (0, "state", "", ["random_source:map_only", "random_source"]),
        ],
    )
    def test_through_the_victim(self, source: int | None, on: str, name: str, methods: list[str]) -> None:
        found = list(remap.white(self.plan, self.task, 0, name, on, source))
        assert [row.method for row in found] == methods and "validation" in found[0].note

    def test_by_its_answers(self) -> None:
        found = list(remap.scored(self.plan, self.task, 0))
        assert [row.method for row in found] == ["ours:score_only", "ours:score_only_soft"]

    def test_the_untrained_state_is_a_candidate(self) -> None:
        train, validation, test = remap.rows(self.plan, self.task, 0)
        options = self.task.program(train)
        taught = remap.begin(*tiny("bert-classifier"), self.task, (train, validation), 0, "state", **options)
        before = taught.right(test)
        taught.best = 2.0  # no epoch can pass it
        remap.through(taught, 1, 0)
        assert taught.right(test) == before and taught.note.startswith("epoch 0")


def test_the_table_says_shares_and_gaps_with_their_bars() -> None:
    def half(count: int) -> list[bool]:
        return [True] * count + [False] * (10 - count)

    cells = [
        kept("trec", seed, method, half(count))
        for seed in (0, 1)
        for method, count in (("majority", 2), ("probe", 7), ("ours", 6), ("ours:soft", 5), ("random_source", 4))
    ]
    told = {(row.method, row.metric): row for row in summary(cells)}
    share = told["ours", "share_of_gain:probe"]
    assert share.value == pytest.approx(80) and share.note == f"bar >= {SHARE}: met"
    gap = told["ours", "accuracy_gap:soft"]
    assert gap.value == pytest.approx(-10) and gap.note == f"bar within {GAP:g}: NOT met"
    assert told["ours", "accuracy_gain_over:random_source"].value == pytest.approx(20)
    assert ("ours", "accuracy_gain_over:ours:soft") not in told
    assert np.isfinite([row.value for row in told.values()]).all()
