"""What the README says of series of numbers, from the results of voice2series.py and voice2series_parity.py."""

from __future__ import annotations

from typing import Any


PARITY = {
    "ours": "preset `voice2series`: a learned sound, the network frozen",
    "random_source": "the same on random weights",
    "map_only:fixed placement": "the same placement, no sound, a ridge map",
    "released_code": "the released code's regime: network trained, best epoch on the test rows",
    "released_code:last epoch": "the same, last epoch",
    "classical:1nn": "1-NN",
    "classical:ridge": "ridge of the raw series",
    "classical:minirocket": "MiniRocket",
    "paper": "the paper's table 2",
    "majority": "always the commonest label",
}
CONTROLS = {"random_source": "the same on random weights", "map_only:spectrogram": "the same on the spectrogram alone"}


def series(found: dict[str, Any], parity: dict[str, Any] | None) -> str:
    """What one recipe for 27 tasks reaches, what pretraining adds to it, what is better; then the trained program.

    Args:
        found: the results of voice2series.py.
        parity: those of voice2series_parity.py, None where there are none.
    """
    mean = next(row["task"] for row in found["rows"] if row["task"].startswith("mean of"))
    rows = {(row["method"], row["metric"]): row for row in found["rows"] if row["task"] == mean}

    def value(method: str) -> str:
        return f"{rows[method, 'accuracy']['value']:.1f}"

    def gain(method: str) -> dict[str, Any]:
        return rows["ours", f"accuracy_gain_over:{method}"]

    best = max((row for row in found["rows"] if row["metric"] == "loo_accuracy"), key=lambda row: row["value"])
    canvases, _, reading = best["method"].removeprefix("ours:").partition("; ")
    pair = ", each with its map, the mean of their scores" if " + " in canvases else ""
    added = [f"{spanned(gain(m))} over {text} ({value(m)})" for m, text in CONTROLS.items() if (m, "accuracy") in rows]
    bare = rows.get(("ours", "accuracy_gain_over:map_only:spectrogram"))
    doubt = " It is the canvases and the spectrogram that do it, not the network." if bare and bare["low"] <= 0 else ""
    rocket = gain("classical:minirocket")
    told = [
        f"On {mean.removeprefix('mean of ')} of the UCR archive one recipe for all, chosen on training rows, has "
        f"{value('ours')} in the mean: a series as {canvases}; a ridge map of what the spotter hears"
        f"{f' ({reading})' if reading else ''}{pair}.",
        f"1-NN has {value('classical:1nn')} ({gain('classical:1nn')['note']}).",
        f"What pretraining adds: {', '.join(added) or 'not measured'}.{doubt}",
        f"MiniRocket, which needs no model, has {value('classical:minirocket')} (ours {spanned(rocket)}"
        + ("): take that." if rocket["high"] < 0 else ", not to be told apart)." if rocket["low"] < 0 else ")."),
        f"`{found['command']}` at {found['commit'][:12]}.",
    ]
    return "\n".join([*told, *(_trained(parity) if parity else [])])


def _trained(found: dict[str, Any]) -> list[str]:
    """A line for each method: how many tasks it has been measured on, its mean on them, and what ours gains there."""
    means = {(r["method"], r["metric"]): r for r in found["rows"] if r["task"].startswith("mean of")}
    lines = [
        "",
        "| Voice2Series as its paper has it | tasks | mean accuracy | the preset above it |",
        "|---|--:|--:|---|",
    ]
    for method, text in PARITY.items():
        row, gain = means.get((method, "accuracy")), means.get(("ours", f"accuracy_gain_over:{method}"))
        if row:  # an interval over a handful of tasks says nothing
            above = spanned(gain) if gain and row["n"] >= 5 else ""
            lines.append(f"| {text} | {row['n']} | {row['value']:.1f} | {above} |")
    few = min(means[m, "accuracy"]["n"] for m in PARITY if (m, "accuracy") in means) < means["ours", "accuracy"]["n"]
    stopped = (
        "Rows of fewer tasks were stopped for time, the smallest tasks first: they judge neither paper nor code.\n"
    )
    return [*lines, "", f"{stopped if few else ''}`{found['command']}` at {found['commit'][:12]}."]


def spanned(row: dict[str, Any]) -> str:
    """A difference with its interval."""
    return f"{row['value']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f})"
