"""The language benchmark: who is drawn, where learning begins, what is chosen, what its table says."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks import language
from benchmarks import language_methods as methods
from benchmarks.intervals import kept
from benchmarks.language import QUICK, TASKS, Plan, cells, draw, factors_of, summary
from benchmarks.language_methods import Data
from benchmarks.report import Row

import hf_reprogram as hr
from hf_reprogram.testing.helpers import LABELS, ROWS, state_hash
from hf_reprogram.testing.models import tiny


FEW = Data(LABELS, ROWS, ROWS[:4], ROWS[2:])


def bare() -> hr.ReprogramModel:
    base, tokenizer = tiny("bert-encoder")
    return methods.reprogrammed(base, tokenizer, LABELS, "none", 0.1, seed=0)


# Rows ----------------------------------------------------------------------------------------------------------------


def written(folder: Path) -> Plan:
    """A set of 20 rows of two words, 20 of one, and 6 test rows."""
    (folder / "sst2").mkdir()
    (folder / "sst2" / "classes.json").write_text(json.dumps(LABELS))
    texts = {"train": [f"long {i}" for i in range(20)] + [f"{i}" for i in range(20)], "validation": list("abcdef")}
    for split, given in texts.items():
        with gzip.open(folder / "sst2" / f"{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps({"text": text, "label": i % 2}) + "\n" for i, text in enumerate(given))
    return Plan(rows=(10, 5, 4), data=folder)


def test_rows_are_drawn_by_seed_and_the_test_rows_are_always_the_same(tmp_path: Path):
    plan, task = written(tmp_path), replace(TASKS[2], minimum=2)
    data, other = draw(task, 0, plan), draw(task, 1, plan)
    assert (len(data.train), len(data.validation), len(data.test)) == (10, 5, 4)
    assert all(row["text"].startswith("long") for row in data.train + data.validation)
    assert not {row["text"] for row in data.train} & {row["text"] for row in data.validation}
    assert data.test == other.test and data.train != other.train and data.train == draw(task, 0, plan).train
    assert data.labels == LABELS and set(data.ids("train").tolist()) == {0, 1}


def test_what_the_bars_are_about_comes_first():
    plan = Plan(seeds=range(2), controls=range(1))
    order = list(cells(plan))
    assert [(what, task.name, seed) for what, task, seed in order[:4]] == [
        ("ours", "trec", 0), ("ours", "mpqa", 0), ("ours", "trec", 1), ("ours", "mpqa", 1)
    ]  # fmt: skip
    assert len(order) == len(set(order)) == 2 * len(TASKS) + 3 * len(TASKS)
    assert {task.name for _, task, _ in cells(QUICK)} == {"trec"}


# Learning ------------------------------------------------------------------------------------------------------------


def test_the_probe_is_a_logistic_regression_of_the_mean_states():
    model = bare()
    start, found = methods.probe(model, FEW)
    with torch.no_grad():
        states = [
            model.backbone.base(**model.processing_class(row["text"], return_tensors="pt")).last_hidden_state.mean(1)
            for row in ROWS
        ]
    torch.testing.assert_close(start.states, torch.cat(states), atol=1e-5, rtol=0)
    mapping = model.active_mapping()
    mapping.options.inverse_penalty = start.penalty
    mapping.fit(start.states, FEW.ids("train"))
    own = mapping(hr.Readout(start.states[2:])).log_softmax(1)
    torch.testing.assert_close(found.test, own, atol=1e-4, rtol=0)


def test_untaught_every_learner_says_what_the_probe_says():
    """LoRA and the embedding program have no effect at the start; all begin at the same map."""
    start, found = methods.probe(bare(), FEW)
    base, tokenizer = tiny("bert-encoder")
    program = {"type": "embedding", "rank": 2}
    learners = {
        "ours": methods.ours(methods.reprogrammed(base, tokenizer, LABELS, program, start.penalty, 0), 1.0),
        "lora": methods.lora(bare(), 1e-3, 1, seed=0),
    }
    for learner in learners.values():
        learner.model.active_mapping().options.inverse_penalty = start.penalty
        learner.model.active_mapping().fit(start.states, FEW.ids("train"))
        said = methods.mapped(learner, methods.states(learner, FEW.test))
        torch.testing.assert_close(said, found.test, atol=1e-4, rtol=0)


def test_no_mean_is_taken_over_peft_s_virtual_tokens(tmp_path: Path):
    base, tokenizer = tiny("bert-encoder")
    tokenizer.save_pretrained(tmp_path)  # PEFT reads it from its folder again
    tokenizer = type(tokenizer).from_pretrained(tmp_path)
    model = methods.reprogrammed(base, tokenizer, LABELS, "none", 0.1, seed=0)
    learner = methods.peft_prompt(base, tokenizer, model, 3, "this film", 1e-3)
    found = methods.states(learner, ROWS[:1])
    with torch.no_grad():
        vectors = learner.module.prompt.get_prompt(1)
        ids = tokenizer(ROWS[0]["text"], return_tensors="pt")["input_ids"]
        whole = torch.cat([vectors, base.get_input_embeddings()(ids)], 1)
        by_hand = base(inputs_embeds=whole).last_hidden_state[:, 3:].mean(1)
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=0)
    assert learner.numbers == 3 * base.config.hidden_size + 2 * (base.config.hidden_size + 1)


def test_the_best_epoch_stays_and_the_base_too():
    base, tokenizer = tiny("bert-encoder")
    before = state_hash(base)
    start, _ = methods.probe(methods.reprogrammed(base, tokenizer, LABELS, "none", 0.1, 0), FEW)

    def make() -> methods.Learner:
        program = [{"type": "prompt", "template": "{prompt:2} {text}"}, {"type": "embedding", "rank": 2}]
        return methods.ours(methods.reprogrammed(base, tokenizer, LABELS, program, start.penalty, 0), 1.0)

    learner = make()
    learner.model.active_mapping().fit(start.states, FEW.ids("train"))
    started = [p.detach().clone() for group, _ in learner.rates for p in group]
    epoch, found = methods.learn(learner, FEW, epochs=3, seed=0)
    assert 1 <= epoch <= 3
    again = methods.merit(methods.mapped(learner, methods.states(learner, FEW.validation)), FEW.ids("validation"))
    assert again == pytest.approx(found)
    assert not all(torch.equal(a, b) for a, b in zip(started, [p for g, _ in learner.rates for p in g], strict=True))
    rate, best = methods.taught({0.5: make, 1.0: make}, start, FEW, epochs=1, seed=0)
    assert rate == 0.5 and best.note.startswith(f"{learner.numbers} numbers, rate 0.5")  # level: the first
    assert state_hash(base) == before


# What is told --------------------------------------------------------------------------------------------------------


def test_the_rate_of_a_seed_is_kept():
    rows = [
        Row("trec, draw 0", "factor:both", "factor", 4.0),
        Row("trec, draw 1", "factor:both", "factor", 1.0),
        Row("mpqa, draw 0", "factor:both", "factor", 1.0),
    ]
    assert factors_of(rows, TASKS[0], 0) == {"both": 4.0}


def test_gains_and_bars():
    found = [Row("trec, draw 0", "factor:both", "factor", 4.0)]
    for seed in range(2):
        found += [
            kept("trec", seed, "probe", [True] * 50 + [False] * 50),
            kept("trec", seed, "ours", [True] * 60 + [False] * 40),
            kept("trec", seed, "ours:both", [True] * 55 + [False] * 45),
            kept("mr", seed, "probe", [True] * 50 + [False] * 50),
            kept("mr", seed, "ours", [True] * 48 + [False] * 52),
        ]
    told = {(row.task, row.method, row.metric): row for row in summary(found)}
    assert told["trec", "ours", "accuracy_gain_over:probe"].value == pytest.approx(10)
    assert told["trec", "ours", "accuracy_gain_over:probe"].note.endswith("bar >= 3.5 and above zero: met")
    assert told["trec", "ours:both", "accuracy_gain_over:probe"].value == pytest.approx(5)
    assert told["mr", "ours", "accuracy_gain_over:probe"].note.endswith("bar >= -0.5: NOT met")
    mean = told["mean of the tasks", "ours", "accuracy_gain_over:probe"]
    assert mean.value == pytest.approx(4) and "NOT met" in mean.note  # two tasks are not five


@pytest.mark.slow
def test_a_quick_run_goes_through(tmp_path: Path, shared: Path, minilm: Path, monkeypatch):
    monkeypatch.setattr(language, "SCRATCH", tmp_path)
    assert language.main(["--quick", "--data", str(shared / "data")]) == 0
    found = json.loads((tmp_path / "language.json").read_text())["rows"]
    methods_seen = {row["method"] for row in found if row["task"] == "trec"}
    wanted = {
        "ours",
        "ours:prompt",
        "ours:embedding",
        "ours:both",
        "ours:mean of the three",
        "probe",
        "majority",
        "lora",
    }
    assert wanted | {"peft_prompt_tuning", "random_source:ours", "classical:same rows"} <= methods_seen
