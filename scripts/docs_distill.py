"""What the README says of instructions taught to slots, from the results of distill.py."""

from __future__ import annotations

from typing import Any


def distilled(found: dict[str, Any] | None) -> str:
    """One row per instruction, and where a bar was missed.

    Args:
        found: the results of distill.py, None where there are none.
    """
    if found is None:
        return ""
    settings, lines, missed = found["settings"], [], []
    for task in dict.fromkeys(row["task"] for row in found["rows"]):
        rows = {(row["method"], row["metric"]): row for row in found["rows"] if row["task"] == task}
        if ("ours", "agreement_last") not in rows:
            continue  # of a run that was stopped
        agreed, share = rows["ours", "agreement_last"], rows["ours", "accuracy_share"]
        missed += [f"{task}: {row['metric'].replace('_', ' ')}" for row in (agreed, share) if "NOT met" in row["note"]]
        accuracy = [f"{rows[m, 'accuracy']['value']:.1f}" for m in ("no_instruction", "instruction", "ours")]
        saved, time = rows.get(("ours", "positions_saved")), rows.get(("ours", "time_of_instruction"))
        cost = f"{saved['note']} | {time['value']:.2f}" if saved and time else " | "
        start = rows["start", "agreement_last"]["value"]
        spread = f"{agreed['value']:.1f} ({agreed['low']:.1f} to {agreed['high']:.1f})"
        lines.append(f"| {task} | {start:.1f} | {spread} | {' | '.join(accuracy)} | {cost} |")
    seeds = len(found["seeds"])
    told = (
        f"SmolLM2-135M-Instruct frozen, {settings['slots']} slots, {settings['steps']} steps of {settings['batch']} "
        f"unlabelled texts, {seeds} seeds (worst to best), {settings['test_rows']} test rows."
    )
    doubt = f" Bars not met: {'; '.join(missed)}." if missed else ""
    return "\n".join(
        [
            "| instruction for | same next token of 49,152 at the start, % | taught | accuracy without it | with it "
            "| with slots | it takes | time of a row, of the instruction's |",
            "|---|--:|--:|--:|--:|--:|---|--:|",
            *lines,
            "",
            f"{told}{doubt} `{found['command']}` at {found['commit'][:12]}.",
        ]
    )
