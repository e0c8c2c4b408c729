"""Which model to take: the readings of each family, measures by hand, what the report says and does not say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

import hf_reprogram as hr
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.mappings.linear import left_out, ridge
from hf_reprogram.testing import AUDIO_ROWS, ROWS, tiny
from hf_reprogram.testing.helpers import LABELS, flags, state_hash
from hf_reprogram.tools.select import Entry, Selection
from hf_reprogram.tools.select.choose import _Look
from hf_reprogram.tools.select.measures import COLUMNS, condensed, interval, measured
from hf_reprogram.tools.select.readings import Candidate
from hf_reprogram.tools.select.simple import bands, points, simple


QUICK: dict[str, Any] = {"gradients": 0, "random_seeds": ()}


@pytest.mark.parametrize("outputs", [3, 20])
def test_left_out_is_a_fit_without_each_row(outputs: int) -> None:
    from sklearn.linear_model import Ridge

    z = np.random.default_rng(0).normal(size=(12, outputs)) + 1.0
    target = np.eye(3)[np.arange(12) % 3]
    penalty = ridge(z, target)[2]
    each = [
        Ridge(alpha=penalty).fit(np.delete(z, i, 0), np.delete(target, i, 0)).predict(z[i : i + 1])[0]
        for i in range(12)
    ]
    np.testing.assert_allclose(left_out(z, target), np.stack(each), atol=1e-12)


class TestReadings:
    """What is read of a model without a program."""

    @pytest.mark.parametrize(
        ("family", "readings"),
        [
            ("llama", {"state", "answer", "vocabulary"}),
            ("bert", {"state", "answer", "vocabulary"}),
            ("bert-encoder", {"state"}),
            ("bert-classifier", {"state", "classes"}),
            ("gpt2-classifier", {"state", "classes"}),
            ("t5", {"state", "answer", "vocabulary"}),
        ],
    )
    def test_of_each_kind_and_row_by_row_what_the_model_gives(self, family: str, readings: set[str]) -> None:
        base, tokenizer = tiny(family)
        before = state_hash(base), flags(base)
        candidate = Candidate(base, tokenizer, LABELS)
        found = candidate.read(ROWS).values
        assert set(found) == readings
        collator = candidate.model.collator()
        for name, reading in candidate.readings.items():
            for i, row in enumerate(ROWS):
                columns = collator.stack(collator.lay_out([row], labelled=False))
                alone = candidate.model.reprogrammed.readout(columns, reading)[0]
                np.testing.assert_allclose(found[name][i], alone.double().numpy(), atol=2e-5)
        assert candidate.close() is base
        assert (state_hash(base), flags(base)) == before

    def test_of_a_model_that_hears(self) -> None:
        found = hr.select({"w": tiny("wav2vec2-classifier")}, AUDIO_ROWS, **QUICK)
        assert {e.reading for e in found.entries} == {"state", "classes"}
        assert found.counted == "log-mels" and 0 <= found.classical <= 1

    def test_the_likeliest_tokens_and_one_for_all_others(self) -> None:
        z = np.random.default_rng(1).normal(size=(4, COLUMNS + 50)) * 3
        z[:, 7] += 100.0
        found, kept = condensed(z)
        assert found.shape == (4, COLUMNS + 1) and 7 in kept
        whole = np.log(np.exp(z).sum(1))
        np.testing.assert_allclose(np.log(np.exp(found).sum(1)), whole)  # no probability is lost
        np.testing.assert_array_equal(condensed(z, kept)[0], found)

    def test_of_a_vocabulary_the_first_label_is_one_of_all(self) -> None:
        """The first token tells the label in all rows, and in nearly all the rest together holds more mass."""
        z, y = np.random.default_rng(0).normal(size=(200, 20000)), np.arange(200) % 4
        z[np.arange(200), y] += 8.0
        rest = condensed(z)[0].argmax(1) == COLUMNS
        assert rest.mean() > 0.95 and (z.argmax(1) == y).all()
        assert measured(z, y, 4, scores=True)[0]["nce"] == 0.0

    def test_contrasts_add_up_to_all_differences(self) -> None:
        between = scipy.linalg.helmert(4)
        np.testing.assert_allclose(between.T @ between, np.eye(4) - 0.25, atol=1e-12)


class TestMeasures:
    """In the table they are those of `transferability`; here what is done before."""

    def test_size_and_offset_of_features_change_nothing(self) -> None:
        random = np.random.default_rng(0)
        y = np.arange(30) % 3
        z = random.normal(size=(30, 8)) + 2.0 * np.eye(8)[y]
        a, right = measured(z, y, 3, scores=False)
        b, same = measured(1000 * z + 7, y, 3, scores=False)
        np.testing.assert_array_equal(right, same)
        assert a["accuracy"] > 0.7
        for name, value in a.items():
            assert np.isnan(value) == (name in ("leep", "nce")), name
            assert np.isnan(value) or b[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name

    def test_random_weights_are_brought_to_the_scale_of_the_model(self) -> None:
        base, tokenizer = tiny("bert-classifier")
        look = _Look(ROWS, np.array([1, 0, 1, 0, 1, 0]), LABELS, None, 0, [], None, 32, 0)
        plain, read, _ = look._outputs(base, tokenizer)
        spread = {k: float(v.std(0).mean()) for k, v in read.values.items()}
        with torch.no_grad():
            for p in base.classifier.parameters():
                p.mul_(50.0)  # ten thousand times as sure, and not one bit wiser
        loud, *_ = look._outputs(base, tokenizer, spread)
        assert loud["classes"][0]["leep"] == pytest.approx(plain["classes"][0]["leep"], abs=1e-5)

    def test_interval_of_few_rows_is_wide(self) -> None:
        right = np.array([1.0, 0.0] * 10)
        low, high = interval(right)
        assert low < 0.35 and high > 0.65

    def test_outputs_that_never_differ(self) -> None:
        with pytest.raises(DataError, match="the same for all rows"):
            measured(np.ones((6, 3)), np.array([0, 1] * 3), 2, scores=True)


class TestSelect:
    """From models and rows to the report."""

    @pytest.fixture(scope="class")
    @staticmethod
    def found() -> Selection:
        models = {name: tiny(name) for name in ("llama", "bert-classifier", "bert-encoder")}
        return hr.select(models, ROWS * 4, gradients=4)

    def test_best_first_with_random_weights_beside(self, found: Selection) -> None:
        accuracies = [e.accuracy for e in found.entries]
        assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) == 6
        assert found.majority == 0.5 and found.rows == 24 and found.labels == LABELS
        for entry in found.entries:
            assert entry.low <= entry.accuracy <= entry.high
            assert set(entry.random) == set(entry.measures)
            assert 0.0 <= entry.measures["agreement"] <= 1.0 and -1.0 <= entry.measures["tangent"] <= 1.0
            assert np.isnan(entry.measures["leep"]) == (entry.reading in ("state", "answer"))
            assert entry.artefact_bytes == 4 * 2 * (entry.outputs + 1)

    def test_the_same_twice(self, found: Selection) -> None:
        again = hr.select({"llama": tiny("llama")}, ROWS * 4, gradients=4)
        for entry in again.entries:
            twin = next(e for e in found.entries if (e.model, e.reading) == ("llama", entry.reading))
            assert entry.measures == pytest.approx(twin.measures, nan_ok=True, rel=1e-4)

    def test_written_out(self, found: Selection) -> None:
        plain = json.loads(found.json())
        assert plain["entries"][0]["measures"]["accuracy"] == found.entries[0].accuracy
        assert None in plain["entries"][0]["measures"].values() or plain["entries"][0]["reading"] == "classes"
        for text in (found.text(), found.markdown(), found.html()):
            for entry in found.entries:
                assert entry.name in text
            assert "Nothing was trained" in text and "random weights" in text
        page = found.html()
        assert "<svg" in page
        for fetched in ('src="http', 'href="http', "@import", "<script", "<link"):  # all that it shows is in it
            assert fetched not in page

    def test_a_model_that_fails_stops_no_other(self, tmp_path: Path) -> None:
        models = {"nothing": (torch.nn.Linear(2, 2), None), "good": tiny("bert-encoder")}
        found = hr.select(models, ROWS, **QUICK)
        assert [e.model for e in found.entries] == ["good"]
        assert "nothing could not be read" in found.text()
        gone = hr.select([str(tmp_path / "no")], ROWS, **QUICK)
        assert gone.best is None and gone.verdict() == ["No model could be read."]
        assert "no" in gone.text() and gone.html()

    def test_so_does_one_whose_outputs_are_nan(self) -> None:
        """Its first look goes through, on shorter rows."""
        base, tokenizer = tiny("bert-encoder")
        with torch.no_grad():
            base.embeddings.position_embeddings.weight[30] = float("nan")
        rows = [*ROWS[:-1], {**ROWS[-1], "text": "good " * 32}]
        found = hr.select({"nan": (base, tokenizer), "good": tiny("bert-encoder")}, rows, **QUICK)
        assert [e.model for e in found.entries] == ["good"]
        assert "NaN or infinity for 6 of 6 rows" in found.failed["nan"] and "Fix:" in found.failed["nan"]

    def test_and_one_whose_weights_are_nan_is_told_so(self) -> None:
        base, tokenizer = tiny("bert-encoder")
        with torch.no_grad():
            for p in base.parameters():
                p.fill_(float("nan"))
        found = hr.select({"nan": (base, tokenizer), "good": tiny("bert-encoder")}, ROWS, **QUICK)
        assert [e.model for e in found.entries] == ["good"]
        assert "BertModel gives NaN or infinity" in found.failed["nan"] and "FAMILIES" not in found.failed["nan"]

    def test_rows_of_the_source(self) -> None:
        base, tokenizer = tiny("bert-classifier")
        classes = list(base.config.id2label.values())
        source = [{"text": row["text"], "label": classes[i % len(classes)]} for i, row in enumerate(ROWS * 2)]
        found = hr.select({"m": (base, tokenizer)}, ROWS, source_rows=source, **QUICK)
        by = {e.reading: e.distances for e in found.entries}
        assert by["state"]["sliced"] == pytest.approx(0.0, abs=1e-6)  # the same texts, each twice
        assert by["classes"]["risk"] <= by["classes"]["bound"]
        assert "SW" in found.columns() and "bound" in found.columns()
        wrong = [{**source[0], "label": "elsewhere"}]
        failed = hr.select({"m": (base, tokenizer)}, ROWS, source_rows=wrong, **QUICK).failed["m"]
        assert "elsewhere" in failed and classes[0] in failed

    @pytest.mark.parametrize(
        ("rows", "options", "says"),
        [
            ([{"text": "so good"}], {}, r"select\(rows\)\[0\]\['label'\].*missing"),
            ([{"text": "so good", "label": "a"}] * 4, {}, "at least two"),
            (ROWS, {"labels": ["negative", "positive", "neutral"]}, "no row of 'neutral' among 6 rows"),
            (ROWS[:2], {}, "one row of each of 2 labels.*two rows: each row is told by a map of the others"),
            (ROWS, {"labels": ["negative", "negative"]}, "each label once"),
            ([{**row, "label": 0} for row in ROWS], {"labels": LABELS}, "nothing says which label"),
            (ROWS, {"count": 2}, "count.*at least 3"),
        ],
    )
    def test_rows_that_cannot_be_meant(self, rows: list[Any], options: dict[str, Any], says: str) -> None:
        with pytest.raises((DataError, UsageError, ValueError), match=says):
            hr.select({"m": tiny("bert-encoder")}, rows, **options)

    def test_a_label_of_one_row_is_minded(self) -> None:
        found = hr.select({"m": tiny("bert-encoder")}, ROWS[:3], **QUICK)
        assert any("1 of 2 labels on one row only" in note for entry in found.entries for note in entry.remarks)

    def test_integers_with_names_are_labels(self) -> None:
        """Gradients are of labelled rows too."""
        rows = [{**row, "label": LABELS.index(row["label"])} for row in ROWS * 2]
        found = hr.select({"m": tiny("bert-encoder")}, rows, features=LABELS, gradients=4)
        assert not found.failed
        named = hr.select({"m": tiny("bert-encoder")}, ROWS * 2, gradients=4)
        assert found.entries[0].measures == pytest.approx(named.entries[0].measures, nan_ok=True)

    def test_words_are_counted_in_the_columns_that_models_read(self) -> None:
        rows = [{**row, "fine": f"{row['label']} of a kind"} for row in ROWS * 2]
        plain = hr.select({"m": tiny("bert-encoder")}, ROWS * 2, **QUICK)
        assert hr.select({"m": tiny("bert-encoder")}, rows, **QUICK).classical == plain.classical

    def test_no_models(self) -> None:
        with pytest.raises(UsageError, match="at least one model"):
            hr.select([], ROWS)
        with pytest.raises(UsageError, match="a list"):
            hr.select("org/model", ROWS)


def entry(model: str, right: int, reading: str = "state", random: float = 0.0, **measures: float) -> Entry:
    """An entry of 100 rows, the first `right` of which are told right."""
    marks = np.arange(100) < right
    low, high = interval(marks)
    shown = {"accuracy": float(marks.mean()), **measures}
    return Entry(model, reading, 8, 1, 1.0, 1.0, 8, shown, low, high, {"accuracy": random}, right=marks)


class TestSimple:
    """What stands beside the models, of each kind of rows."""

    def test_sounds_by_their_bands(self) -> None:
        time, y = np.arange(8000) / 16000, np.tile([0, 1], 10)
        rng = np.random.default_rng(0)
        waves = [np.sin(2 * np.pi * (300, 2000)[c] * time) + 0.1 * rng.normal(size=8000) for c in y]
        rows = [{"audio": {"array": wave.astype("f4"), "sampling_rate": 16000}} for wave in waves]
        assert simple(rows, y, ["text"]) == ("log-mels", 1.0, "")
        assert bands(rows).shape == (20, 320)

    def test_series_of_different_length(self) -> None:
        y = np.tile([0, 1], 10)
        rows = [{"series": np.linspace(0, (-1, 1)[label], 20 + i).tolist()} for i, label in enumerate(y)]
        assert simple(rows, y, ["text"]) == ("the series itself", 1.0, "")
        np.testing.assert_allclose(points(rows)[:, [0, -1]], np.stack([np.zeros(20), 2 * y - 1], 1))

    @pytest.mark.parametrize(
        ("texts", "y", "says"),
        [
            ("abc", [0, 0, 1], "none, as a label has one row"),
            (["a", " ", "c", "d"], [0, 0, 1, 1], r"none, as rows[1] has no text in text"),
            ("abcd", [0, 0, 1, 1], "2 folds and not five, as a label has only 2 rows"),
        ],
    )
    def test_it_says_why_there_is_none_or_fewer_folds(self, texts: list[str], y: list[int], says: str) -> None:
        _, value, aside = simple([{"text": text} for text in texts], np.array(y), ["text"])
        assert says in aside and np.isnan(value) == aside.startswith("none")
        found = Selection([entry("m", 80)], {}, ["a", "b"], 100, 0.5, value, 1, "TF-IDF", aside)
        assert f"TF-IDF: {says}" in found.text() and says in found.to_dict()["aside"]


class TestTable:
    """What stands in the table of text, Markdown and HTML."""

    def test_chance_size_and_random_weights(self) -> None:
        large = replace(entry("m", 90, logme=0.5), parameters=134_515_008, random={"accuracy": 0.6, "logme": -0.25})
        found = Selection([large, entry("n", 80)], {}, ["a", "b", "c"], 100, 0.5, float("nan"), 3)
        first, second = (dict(zip(found.columns(), row, strict=True)) for row in found.cells()[:2])
        assert (first["random"], first["random LogME"], first["parameters"]) == ("60.0", "-0.25", "135M")
        assert (second["random LogME"], second["parameters"]) == ("", "1")
        assert [row[:2] for row in found.cells()[2:]] == [["majority", "50.0"], ["chance", "33.3"]]
        assert "| chance | 33.3 |" in found.markdown() and "<td>chance</td><td>33.3</td>" in found.html()
        assert "mean of 3 seed(s)" in found.text() and found.to_dict()["chance"] == 1 / 3

    def test_without_random_weights(self) -> None:
        plain = replace(entry("m", 90, logme=0.5), random={})
        assert "random LogME" not in Selection([plain], {}, ["a", "b"], 100, 0.5, 0.5, 0).columns()

    @pytest.mark.parametrize(
        ("count", "shown"),
        [
            (999, "999"),
            (18_600, "18.6k"),
            (999_499, "999k"),
            (999_900, "1M"),
            (22_713_216, "22.7M"),
            (7 * 10**9, "7B"),
        ],
    )
    def test_a_count_in_three_figures(self, count: int, shown: str) -> None:
        found = Selection([replace(entry("m", 90), parameters=count)], {}, ["a", "b"], 100, 0.5, 0.5, 0)
        assert dict(zip(found.columns(), found.cells()[0], strict=True))["parameters"] == shown


def test_a_page_without_a_figure_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Selection([entry("m", 90)], {}, ["a", "b"], 100, 0.5, 0.5, 1)
    assert "<svg" in found.html() and "No figure" not in found.html()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "<svg" not in found.html() and "Fix: pip install 'hf-reprogram[figures]'" in found.html()


class TestVerdict:
    """What is said, and what is not."""

    def said(self, *entries: Entry, majority: float = 0.5, classical: float = float("nan")) -> str:
        return "\n".join(Selection(list(entries), {}, ["a", "b"], 100, majority, classical, 1).verdict())

    def test_a_simple_guess_that_does_as_well(self) -> None:
        assert "not shown to be better than TF-IDF (75.0)" in self.said(entry("m", 80), classical=0.75)
        assert "not shown" not in self.said(entry("m", 95), classical=0.75)

    def test_random_weights_that_do_as_well(self) -> None:
        said = self.said(entry("m", 90, random=0.88))
        assert "Not shown to be better than random weights at its scale (88.0) on 100 rows" in said
        assert "random weights" not in self.said(entry("m", 90, random=0.6))
        assert "random weights" in self.said(entry("m", 100, random=1.0))  # an interval of no width

    def test_what_more_rows_may_show(self) -> None:
        """A wide interval hides a difference; where random weights are better there is none to show."""
        assert "on 100 rows: more rows may show it." in self.said(entry("m", 42, random=0.35))
        assert "on 100 rows." in self.said(entry("m", 42, random=0.45))
        assert "on 100 rows." in self.said(entry("m", 99, random=0.985))

    def test_rivals_within_chance(self) -> None:
        said = self.said(entry("m", 90), entry("near", 89), entry("far", 60))
        assert "Not shown to be worse (paired, 95 %): near · mean state." in said

    def test_measures_that_disagree(self) -> None:
        said = self.said(entry("m", 90, logme=-1.0), entry("other", 60, logme=0.5))
        assert "LogME would take other, at best 60.0 (mean state): the measures disagree." in said
        assert "disagree" not in self.said(entry("m", 90, logme=1.0), entry("other", 60, logme=0.5))

    def test_measures_of_classes_disagree_where_a_state_is_best(self) -> None:
        """LEEP says nothing of a state; model against model it does. A model has its best reading to speak for it."""
        best, own = entry("a", 95, leep=float("nan")), entry("a", 90, "classes", leep=-1.0)
        said = self.said(best, own, entry("b", 60, "classes", leep=-0.1))
        assert "LEEP would take b, at best 60.0 (classes): the measures disagree." in said
        assert "disagree" not in self.said(best, own, entry("b", 60, "classes", leep=-1.2))
        assert "disagree" not in self.said(best, entry("b", 60, "classes", leep=-0.1))  # of a it says nothing
        near = entry("b", 94, leep=float("nan")), own, entry("b", 60, "classes", leep=-0.1)
        assert "disagree" not in self.said(best, *near)

    def test_the_best_of_a_measure_may_be_another_reading_of_ours(self) -> None:
        said = self.said(entry("a", 90, logme=-1.0), entry("a", 70, "classes", logme=0.5), entry("b", 60, logme=0.4))
        assert "disagree" not in said

    def test_a_hair_s_breadth_is_no_disagreement(self) -> None:
        others = entry("other", 60, logme=0.51), entry("third", 55, logme=-3.0)
        assert "disagree" not in self.said(entry("m", 90, logme=0.5), *others)

    def test_kendall(self) -> None:
        entries = [entry("a", 90, logme=3.0), entry("b", 80, logme=1.0), entry("c", 70, logme=2.0)]
        found = Selection(entries, {}, ["a", "b"], 100, 0.5, 0.5, 1).taus()
        assert found == {"logme": pytest.approx(1 / 3)}


def test_a_reading_that_tells_nothing_costs_no_other() -> None:
    base, tokenizer = tiny("bert-classifier")
    torch.nn.init.zeros_(base.classifier.weight)
    found = hr.select({"c": (base, tokenizer)}, ROWS * 2, source_rows=[{"text": "x", "label": "LABEL_0"}] * 4, **QUICK)
    assert [entry.reading for entry in found.entries] == ["state"]
    assert list(found.failed) == ["c, classes"] and "the same for all rows" in found.failed["c, classes"]
