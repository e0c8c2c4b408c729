"""The README's words on rows in symbols of their own follow the results."""

from __future__ import annotations

from typing import Any

from docs_symbols import infilling, remap, sequences


def _found(*rows: tuple[str, str, str, float, str]) -> dict[str, Any]:
    made = [
        {"task": t, "method": m, "metric": k, "value": v, "low": v - 1, "high": v + 1, "n": 3, "note": note}
        for t, m, k, v, note in rows
    ]
    return {"rows": made, "command": "python x.py", "commit": "0123456789abcdef"}


def test_sequences_stand_beside_the_best_simple_model() -> None:
    all_sources = _found(
        ("peptide_amp, 10 %", "classical:ngrams", "accuracy", 83.0, ""),
        ("peptide_amp, 10 %", "majority", "accuracy", 51.0, ""),
        ("peptide_amp, 10 %, minilm-l6", "ours:free", "accuracy", 84.5, ""),
        ("peptide_amp, 10 %, minilm-l6", "probe", "accuracy", 74.25, ""),
        ("peptide_amp, 10 %, minilm-l6", "ours:free", "accuracy_gain_over:probe", -2.0, "bar >= -1: NOT met"),
        ("peptide_amp, 1 %, minilm-l6", "ours:free", "accuracy", 60.0, ""),
        ("peptide_amp, 10 %, rxn-albert", "ours:sparse", "accuracy", 50.0, "bar >= 88: NOT met"),
    )
    one = _found(("peptide_amp, 10 %, rxn-albert", "ours:free", "accuracy", 71.0, "")) | {"command": "python y.py"}
    told = sequences([all_sources, one])
    assert "| peptides | 10 % | MiniLM-L6 | 84.5 |  |  |  | 74.2 | 83.0 |" in told
    assert "- Bars not met, MiniLM-L6 at 10 %: peptides, free table against probe -2.0." in told
    assert "50.0" not in told, "what was measured alone stands in the place of what was before"
    assert told.index("| peptides | 10 % | rxn-albert") < told.index("| peptides | 1 % | MiniLM-L6")
    assert "| peptides | 10 % | rxn-albert (reactions) | 71.0 |  |  |  |  | 83.0 |" in told
    assert told.endswith("`python x.py` at 0123456789ab; `python y.py` at 0123456789ab.")


def test_the_run_with_most_draws_speaks_for_a_simple_model() -> None:
    many = _found(("dna_splice, 1 %", "classical:one_hot", "accuracy", 70.7, ""))
    few = _found(
        ("dna_splice, 1 %", "classical:one_hot", "accuracy", 70.2, ""),
        ("dna_splice, 1 %, minilm-l6", "ours:free", "accuracy", 67.5, ""),
    )
    for n, each in ((3, many), (2, few)):
        each["rows"] = [row | {"n": n} for row in each["rows"]]
    assert "| 67.5 |  |  |  |  | 70.7 |" in sequences([many, few])


def test_remap_tells_its_share_and_what_training_adds() -> None:
    told = remap(
        _found(
            ("trec", "ours", "accuracy", 72.0, ""),
            ("trec", "probe", "accuracy", 75.5, ""),
            ("trec", "ours", "share_of_gain:probe", 94.0, ""),
            ("trec", "ours", "accuracy_gain_over:map_only", -1.0, ""),
        )
    )
    assert "| linear probe of the texts as they are | 75.5 |" in told and "Bars" not in told
    assert "- questions: 94 % of the probe's gain over the commonest label; training adds -1.0 (-2.0 to +0.0)." in told


def test_infilling_tells_both_shares() -> None:
    run = {"settings": {"plan": {"epochs": 4}}}
    found = run | _found(
        ("whole loop", "ours:rxn-albert", "recovery", 74.0, ""),
        ("varied residues", "ours:rxn-albert", "recovery", 40.0, ""),
        ("whole loop", "ours:rxn-albert", "recovery_gain_over:classical:position frequency", 2.0, ""),
    )
    told = infilling([found, found])
    assert told.count("share of residues found, 4 epochs") == 2
    assert "| `ours:rxn-albert` | 74.0 | 40.0 |" in told
    assert "- ours:rxn-albert over position frequency: +2.0 (+1.0 to +3.0)." in told


def test_nothing_is_said_before_it_is_measured() -> None:
    assert {remap(None), infilling([]), sequences([])} == {"Not measured yet."}
