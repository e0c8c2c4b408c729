"""What the README says of choosing a model and of training by scores alone, from select_study.py and blackbox.py."""

from __future__ import annotations

from typing import Any

from docs_maps import counted


SAID = {
    "said:accuracy": "accuracy of the ridge map, rows left out (what `select` ranks by)",
    "said:best_accuracy": "ridge accuracy of the model's best reading",
    "said:leep": "LEEP", "said:nce": "NCE", "said:logme": "LogME", "said:h_score": "H-score",
    "said:transrate": "TransRate", "said:gbc": "GBC", "said:agreement": "agreement of gradients",
    "said:tangent": "tangent kernel", "said:parameters": "number of parameters",
}  # fmt: skip


def chosen(found: dict[str, Any] | None) -> str:
    """Rank correlation of every predictor with what training reached, and what `select` costs.

    Args:
        found: the results of select_study.py, None where there are none.
    """
    if found is None:
        return ""
    rows = [row for row in found["rows"] if row["task"] == "mean" and row["metric"] == "spearman"]
    lines = ["| said before training | Spearman with accuracy after it | 95 % over tasks |", "|---|--:|---|"]
    for row in rows:
        name = SAID.get(row["method"], row["method"].removeprefix("said:"))
        lines.append(f"| {name} | {row['value']:.2f} | {row['low']:.2f} to {row['high']:.2f} |")
    reached = [row for row in found["rows"] if row["metric"] == "reached"]
    models, tasks = (len({key(row) for row in reached}) for key in (lambda r: r["method"], lambda r: r["task"]))
    learn = found["settings"]["plan"]["rows"][0]
    told = [
        f"{models} frozen models, one of them of random weights; {tasks} samples of {learn} rows, of "
        f"{len(_names(reached))} tasks. The models were trained for tasks of different kinds, so that accuracy at the "
        "source is no predictor here."
    ]
    cost = next((row for row in found["rows"] if row["metric"] == "seconds"), None)
    if cost:
        told.append(f"`select` took {cost['value']:.0f} s for one small model and 256 rows on one core.")
    told.append(f"`{found['command']}` at {found['commit'][:12]}.")
    return "\n".join([*lines, "", " ".join(told)])


def _names(rows: list[dict[str, Any]]) -> set[str]:
    """Tasks, whatever their draw."""
    return {row["task"].partition(",")[0] for row in rows}


TASKS = {"sst2": "SST-2, 16 a class", "trec": "TREC, 16 a class", "ar-scr": "16 Arabic commands, 4 a class"}
ALONE = {
    "gradients": "the same vectors trained by gradients",
    "calibrated": "label words, calibrated, no training",
    "map_only": "the ridge map alone",
    "majority": "always the commonest label",
}


def blackbox(runs: list[dict[str, Any]]) -> str:
    """Accuracy by budget beside what needs no search, queries, and the bars that were missed.

    Args:
        runs: the results of blackbox.py, of all tasks or of some; of one task the last counts.
    """
    by_task = {row["task"]: run for run in runs for row in run["rows"]}
    runs = [run for run in runs if run in by_task.values()]
    if not runs:
        return ""
    found = [row for run in runs for row in run["rows"] if by_task[row["task"]] is run]
    rows = {(row["task"], row["method"], row["metric"]): row for row in found}
    tasks = [task for task in TASKS if any(task == t for t, *_ in rows)]
    methods = dict.fromkeys(m for _, m, metric in rows if metric == "accuracy")
    mine = sorted((m for m in methods if m.startswith("ours:")), key=lambda m: int(m.partition(":")[2]))
    others = [m for m in methods if m not in mine and m not in ALONE]
    lines = [
        f"| accuracy | {' | '.join(TASKS[t] for t in tasks)} | queries needed, sent |",
        "|---|" + "--:|" * (1 + len(tasks)),
    ]
    for name in (*mine, *others, *ALONE):
        cells = [rows.get((task, name, "accuracy")) for task in tasks]
        if any(cells):
            shown = " | ".join(f"{c['value']:.1f} ({c['low']:.1f} to {c['high']:.1f})" if c else "" for c in cells)
            lines.append(f"| {_named(name)} | {shown} | {_queries(rows, tasks, name)} |")
    missed = [f"{t}, {m.partition(':')[2]}" for (t, _, m), row in rows.items() if "NOT met" in (row["note"] or "")]
    told = [f"Below a bar: {'; '.join(missed)}."] if missed else []
    draws = sorted({row["n"] for row in found if row["metric"] == "accuracy"})
    made = [f"`{r['command']}` at {r['commit'][:12]}{_on(r.get('machine', {}))}" for r in runs]
    told.append(f"{counted(draws)} (worst to best); {'; '.join(made)}.")
    return "\n".join([*lines, "", " ".join(told)])


def _on(machine: dict[str, Any]) -> str:
    return f" on {machine['accelerator']}" if "accelerator" in machine else ""


def _named(method: str) -> str:
    name, _, budget = method.partition(":")
    if not budget:
        return ALONE[method]
    return f"{'`fit_blackbox`' if name == 'ours' else name}, {int(budget):,} evaluations"


def _queries(rows: dict[tuple[str, str, str], dict[str, Any]], tasks: list[str], method: str) -> str:
    found = [[rows.get((task, method, metric)) for metric in ("wanted", "sent")] for task in tasks]
    return "; ".join(f"{wanted['value']:,.0f}, {sent['value']:,.0f}" for wanted, sent in found if wanted and sent)
