"""Infilling of the third loop: what is masked, what counts as right, what is said of the baselines."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from benchmarks import infilling
from benchmarks.infilling import FREQUENCY, Plan, _at_best_rate, _best, kept, rates, summary
from benchmarks.infilling_data import Drawn, loop, masked


TEXT = "A" * 93 + "YYCARGDAFSSWGQG" + "T" * 8  # the loop stands at 96 to 103


def test_the_loop_is_masked_and_what_stood_there_is_the_label() -> None:
    row = masked(TEXT, "[MASK]", crop=False)
    assert row["label"] == loop(TEXT) == "ARGDAFSS" and row["text"] == TEXT.replace("ARGDAFSS", "[MASK]" * 8)
    half = masked(TEXT, "?", [True, False] * 4, crop=False)
    assert (half["label"], half["text"][96:104]) == ("AGAS", "?R?D?F?S")


def test_every_other_look_hides_the_whole_loop_and_each_hides_something() -> None:
    rows = Drawn([TEXT], "?", 0)
    hidden = [len(rows[0]["label"]) for _ in range(200)]
    assert min(hidden) >= 1 and 80 <= hidden.count(8) <= 140


def test_gains_over_the_frequencies_of_both_ways_to_read() -> None:
    texts = [TEXT] * 40
    said = {FREQUENCY: "ARGDAFSA", "ours:antiberty": "ARGDAFSS", "ours:antiberty, all at a time": "ARGDAFSS"}
    found = [kept(method, 0, [one] * 40, texts) for method, one in said.items()]
    rows = {(row.task, row.method, row.metric): row for row in summary(found)}
    assert rows["whole loop", FREQUENCY, "recovery"].value == pytest.approx(87.5)
    for method in ("ours:antiberty", "ours:antiberty, all at a time"):
        gain = rows["whole loop", method, f"recovery_gain_over:{FREQUENCY}"]
        assert gain.value == pytest.approx(12.5) and "above zero: met" in gain.note
    assert rows["varied residues", "ours:antiberty", f"recovery_gain_over:{FREQUENCY}"].value == pytest.approx(100 / 3)


def test_every_depth_of_a_source_that_is_cut_has_the_rate_of_its_own_least_loss(monkeypatch) -> None:
    losses = {(1, 0.02): 2.0, (1, 0.2): 1.0, (2, 0.02): 1.5, (2, 0.2): 3.0}
    monkeypatch.setattr(infilling, "DEPTHS", (1, 2))
    monkeypatch.setattr(infilling, "_made", lambda name, depth, seed, random_weights: (Unloaded(depth), None))
    plan = Plan(rates=(0.02, 0.2), sources=("rxn-albert-cut",))
    monkeypatch.setattr(infilling, "_trained", lambda model, plan, seed: [9.0, losses[model.depth, plan.rate]])
    report = SimpleNamespace(rows=list(rates(plan, "rxn-albert-cut", False)))
    chosen = []
    monkeypatch.setattr(infilling, "run", lambda *given: chosen.append(given[-1]))
    _at_best_rate(plan, "rxn-albert-cut", 0, False, report)
    assert chosen == [{1: 0.2, 2: 0.02}]
    assert _best(plan, "rxn-albert-cut", 0, False, chosen[0])[0].depth == 1


class Unloaded:
    """A model of so many layers that is not there."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def unload(self) -> None:
        pass
