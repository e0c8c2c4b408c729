"""Search of a mapping: each is judged by rows that it has not seen, under the programs as they start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedKFold

import hf_reprogram as hr
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.mappings.linear import fixed_penalty, ridge
from hf_reprogram.testing import AUDIO_ROWS, ROWS, tiny
from hf_reprogram.testing.helpers import LABELS, flags, state_hash


MEAN: dict[str, Any] = {"type": "linear", "on": "state", "pool": "mean"}


def config(program: Any = "none", mapping: Any = MEAN, **more: Any) -> hr.ReprogramConfig:
    return hr.ReprogramConfig(program=program, mapping=mapping, labels=LABELS, **more)


@pytest.mark.parametrize(
    ("family", "template", "names"),
    [
        ("bert-encoder", "{text}", {"linear (pool mean)", "linear (pool statistics)"}),
        (
            "bert-classifier",
            "{text}",
            {"linear (on classes)", "bayesian", "labels", "prototype", "transport", "auto", "residual"},
        ),
        (
            "llama",
            "{text}{answer}",
            {"linear", "linear (on source)", "bayesian", "prototype (shape shrunk)", "residual"},
        ),
    ],
)
def test_what_a_base_and_a_template_allow_is_tried_and_the_base_given_back(
    family: str, template: str, names: set[str]
) -> None:
    base, tokenizer = tiny(family)
    before = state_hash(base), flags(base)
    found = hr.search_mappings(base, config({"type": "none", "template": template}), ROWS * 4, tokenizer)
    assert names <= {t.name for t in found.trials}
    shares = [t.accuracy for t in found.trials]
    assert shares == sorted(shares, reverse=True) and found.best is found.trials[0]
    assert (state_hash(base), flags(base)) == before
    assert ("linear" in found.left_out) == (family != "llama")  # no answer slot to read


def test_the_accuracy_is_that_of_fits_on_the_other_folds() -> None:
    base, tokenizer = tiny("bert-encoder")
    rows = [{**row, "text": f"{row['text']} {word}"} for word in ("good", "bad", "day") for row in ROWS]
    trial = hr.search_mappings(base, config(), rows, tokenizer, candidates=[], folds=3, seed=5).best
    model = hr.get_reprogram_model(base, config(), processing_class=tokenizer)
    frozen = model.frozen_rows(rows)
    z, y = frozen.values.double().numpy(), frozen.labels.numpy()
    right = []
    for rest, part in StratifiedKFold(3, shuffle=True, random_state=5).split(z, y):
        fit = Ridge(alpha=ridge(z[rest], np.eye(2)[y[rest]])[2]).fit(z[rest], np.eye(2)[y[rest]])
        right += (fit.predict(z[part]).argmax(1) == y[part]).tolist()
    assert trial.accuracy == np.mean(right) and trial.numbers == 2 * z.shape[1] + 2
    assert fixed_penalty(z) > 0
    model.unload()


def test_it_shows_a_head_and_a_line_for_each_reason(capsys: pytest.CaptureFixture[str]) -> None:
    base, tokenizer = tiny("bert-encoder")
    found = hr.search_mappings(base, config(), ROWS * 2, tokenizer)
    found.show()
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["mapping", "accuracy,", "%", "+-", "error", "numbers"]
    tried, left = lines[: len(found.trials)], lines[len(found.trials) :]
    assert all(line.startswith(t.name) for line, t in zip(tried, found.trials, strict=True))
    assert len(left) == len(set(found.left_out.values())) == 4 < len(found.left_out)
    assert any(
        "residual, transport: it reads classes or rows, and a BertModel gives base, state" in line for line in left
    )
    assert max(map(len, left)) < 250 and all(line.startswith("not tried: ") for line in left)


def test_nan_is_one_short_error() -> None:
    base, tokenizer = tiny("bert-encoder")
    with torch.no_grad():  # at a place that the first look at the base does not reach
        base.embeddings.position_embeddings.weight[30] = float("nan")
    rows = [*ROWS[:-1], {**ROWS[-1], "text": "good " * 32}] * 2
    with pytest.raises(UsageError, match="no mapping could be fitted") as error:
        hr.search_mappings(base, config(), rows, tokenizer)
    assert str(error.value).count("the base gives NaN for 12 of 12 rows") == 1 and len(str(error.value)) < 1000


def test_a_map_that_learns_from_states_and_reads_classes() -> None:
    base, tokenizer = tiny("bert-classifier")
    similar = hr.SimilarityConfig(per_label=1)
    rows = [{**row, "text": f"{row['text']} {word}"} for word in ("good", "bad", "day") for row in ROWS]
    trial = hr.search_mappings(base, config(mapping=similar), rows, tokenizer, candidates=[], folds=3).best
    y = np.array([LABELS.index(row["label"]) for row in rows])
    right = []
    for rest, part in StratifiedKFold(3, shuffle=True, random_state=0).split(y, y):
        model = hr.get_reprogram_model(base, config(mapping=similar), processing_class=tokenizer)
        model.fit_mapping([rows[i] for i in rest])
        said = model.predict([rows[i] for i in part])
        right += [answer["label"] == rows[i]["label"] for answer, i in zip(said, part, strict=True)]
        base = model.unload()
    assert trial.name == "similarity (per_label 1)" and trial.accuracy == np.mean(right)


def test_no_map_remembers_the_rows_that_it_is_judged_by() -> None:
    """Labels drawn at random: a map that adds the counts of earlier folds would know them."""
    base, tokenizer = tiny("bert-classifier")
    rng = np.random.default_rng(0)
    words = ["good", "bad", "day", "phone", "book", "love", "fine", "my", "so"]
    rows = [{"text": " ".join(rng.choice(words, 4)), "label": LABELS[i % 2]} for i in range(40)]
    plain, kept = hr.LabelsConfig(per_label=1), hr.LabelsConfig(per_label=1, remember=0.999)
    found = hr.search_mappings(base, config(mapping=plain), rows, tokenizer, candidates=[kept])
    assert len({trial.accuracy for trial in found.trials}) == 1 and len(found.trials) == 2


def test_an_untrained_program_stands_before_it() -> None:
    base, tokenizer = tiny("llama")
    program = {"type": "prompt", "template": "{prompt:3} {text}"}
    with_slots = hr.search_mappings(base, config(program), ROWS * 4, tokenizer, candidates=[])
    again = hr.search_mappings(base, config(program), ROWS * 4, tokenizer, candidates=[])
    assert with_slots.best.accuracy == again.best.accuracy


def test_of_sounds() -> None:
    base, extractor = tiny("wav2vec2-classifier")
    found = hr.search_mappings(base, hr.ReprogramConfig(mapping=MEAN, labels=LABELS), AUDIO_ROWS * 3, extractor)
    assert {"linear (pool mean)", "linear (on classes)"} <= {t.name for t in found.trials}


def test_label_words_need_no_fit_and_what_trains_is_left_out() -> None:
    base, tokenizer = tiny("llama")
    words = {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}}
    program = {"type": "none", "template": "{text} It was{answer}"}
    given = [hr.LinearConfig(on="state", pool="mean", solver="gradient")]
    given.append(hr.VerbalizerConfig(words=words["words"], calibration="contextual"))
    found = hr.search_mappings(base, config(program, words), ROWS * 2, tokenizer, candidates=given)
    assert {t.name for t in found.trials} == {"verbalizer", "verbalizer (calibration contextual)"}
    assert list(found.left_out.values()) == ["it trains by gradients"]
    for trial in found.trials:
        model = hr.get_reprogram_model(base, config(program, trial.options), processing_class=tokenizer)
        if model.active_mapping().needs_fit:
            model.fit_mapping()
        assert trial.accuracy == pytest.approx(model.evaluate(ROWS)["accuracy"])
        base = model.unload()


def test_the_best_can_be_used(tmp_path: Any) -> None:
    base, tokenizer = tiny("bert-classifier")
    made = config()
    made.mapping = hr.search_mappings(base, made, ROWS * 4, tokenizer).best.options
    model = hr.get_reprogram_model(base, made, processing_class=tokenizer)
    model.fit_mapping(ROWS)
    model.save_pretrained(tmp_path)
    before = torch.tensor([row["score"] for row in model.predict(ROWS)])
    loaded = hr.ReprogramModel.from_pretrained(model.unload(), tmp_path, processing_class=tokenizer)
    assert torch.equal(before, torch.tensor([row["score"] for row in loaded.predict(ROWS)]))


@pytest.mark.parametrize(
    ("rows", "more", "says"),
    [
        (ROWS[:2], {}, "at least two rows of every label"),
        ([{"text": "so good"}], {}, "without labels"),
        (ROWS, {"problem_type": "multi_label_classification"}, "one label for each row"),
    ],
)
def test_rows_that_cannot_be_judged(rows: list[Any], more: dict[str, Any], says: str) -> None:
    base, tokenizer = tiny("bert-encoder")
    with pytest.raises((DataError, UsageError), match=says):
        hr.search_mappings(base, config(**more), rows, tokenizer)


@pytest.mark.parametrize("more", [{"folds": 1}, {"folds": 2.5}, {"candidates": ["linear"]}])
def test_arguments_that_cannot_be_meant(more: dict[str, Any]) -> None:
    base, tokenizer = tiny("bert-classifier")
    config = hr.ReprogramConfig(
        program={"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"),
        labels=["negative", "positive"],
    )  # fmt: skip
    with pytest.raises(UsageError, match=rf"search_mappings\({next(iter(more))}\)"):
        hr.search_mappings(base, config, ROWS, tokenizer, **more)


def test_a_label_without_rows_is_named() -> None:
    base, tokenizer = tiny("bert-classifier")
    config = hr.ReprogramConfig(
        program={"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"),
        labels=["negative", "positive", "odd"],
    )  # fmt: skip
    with pytest.raises(DataError, match=r"search_mappings\(rows\): no row of 'odd'"):
        hr.search_mappings(base, config, ROWS, tokenizer)
