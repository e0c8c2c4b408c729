"""What the README says of rows in symbols of their own, from the results of sequences, remap and infilling."""

from __future__ import annotations

from typing import Any

from docs_language import grid
from docs_series import spanned


Rows = dict[tuple[str, str, str], dict[str, Any]]
SETS = {
    "peptide_amp": "peptides", "antibody_affinity": "antibodies", "dna_splice": "DNA", "trec": "questions",
    "names18": "names",
}  # fmt: skip
SOURCES = {
    "minilm-l6": "MiniLM-L6", "antiberty": "AntiBERTy (antibodies)", "rxn-albert": "rxn-albert (reactions)",
    "smollm2-135m": "SmolLM2-135M",
}  # fmt: skip
SOURCES |= {f"{source}-cut": f"{title.partition(' (')[0]}, first layers" for source, title in SOURCES.items()}
SEQUENCES = {
    "ours:free": "`dictionary`, a free table", "ours:sparse": "`dictionary`, ten source tokens each",
    "map_only": "untrained symbols, the map alone", "random_source": "the free table on random weights",
    "probe": "the base's own reading of the letters",
}  # fmt: skip
REMAP = {
    "ours": "`vocabulary`, trained through the victim", "ours:score_only": "the same by its answers alone",
    "map_only": "the same untrained, under a fitted map", "random_source:map_only": "that on random weights",
    "probe": "linear probe of the texts as they are", "classical:tfidf": "TF-IDF + logistic regression",
    "classical:places": "one-hot places + logistic regression",
    "ours:two_scores": "trained, only the two class scores read", "majority": "always the commonest label",
}  # fmt: skip


def _rows(found: dict[str, Any]) -> Rows:
    return {(r["task"], r["method"], r["metric"]): r for r in found["rows"]}


def _said(row: dict[str, Any] | None) -> str:
    return f"{row['value']:.1f}" if row else ""


def _end(found: dict[str, Any], told: list[str]) -> list[str]:
    missed = [
        f"{r['task']}, {r['method']}, {r['metric'].replace('_', ' ')} {r['value']:.3g}"
        for r in found["rows"]
        if "NOT met" in r["note"]
    ]
    told += [f"- Bars not met: {'; '.join(missed)}."] if missed else []
    return [*told, "", _runs([found])]


def sequences(found: list[dict[str, Any]]) -> str:
    """Accuracy by set, share of the training rows and source; the best simple model beside it.

    Args:
        found: the results of all sources, and of those that were measured alone.
    """
    if not found:
        return "Not measured yet."
    rows: Rows = {}
    for each in found:
        again = {task.partition(", ")[2] for task, _, _ in _rows(each) if task.count(",") == 2}
        kept = {key: row for key, row in rows.items() if key[0].partition(", ")[2] not in again}
        # Simple models are measured beside every source: of them the run with most draws speaks.
        rows = kept | {key: row for key, row in _rows(each).items() if key not in kept or row["n"] >= kept[key]["n"]}
    lines = []
    lines += [f"| accuracy | rows | source | {' | '.join(SEQUENCES.values())} | best simple model |"]
    lines += ["|---|--:|---|" + "--:|" * (len(SEQUENCES) + 1)]
    titles = dict.fromkeys(tuple(task.split(", ")) for task, _, _ in rows if task.count(",") == 2)
    for task, percent, source in sorted(titles, key=lambda title: (title[1] != "10 %", [*SOURCES].index(title[2]))):
        title = f"{task}, {percent}, {source}"
        simple = [r for (t, _, metric), r in rows.items() if t == f"{task}, {percent}" and metric == "accuracy"]
        best = max(simple, key=lambda r: r["value"], default=None)
        cells = [_said(rows.get((title, method, "accuracy"))) for method in SEQUENCES]
        lines += [f"| {SETS[task]} | {percent} | {SOURCES[source]} | {' | '.join(cells)} | {_said(best)} |"]
    return "\n".join([*lines, "", *_missed(rows), "", _runs(found)])


def _missed(rows: Rows) -> list[str]:
    """A line for each source and share of the rows whose bars are not met."""
    told: dict[tuple[str, str], list[str]] = {}
    for (title, method, metric), row in rows.items():
        if "NOT met" in row["note"]:
            task, percent, source = title.split(", ")
            form = "ten tokens" if method == "ours:sparse" else "free table"
            beside = {"accuracy": "alone", "accuracy_gain_over:ours:free": "against the free table"}
            what = beside.get(metric, "against " + metric.partition(":")[2].replace(" (best simple)", ""))
            number = f"{row['value']:.1f}" if metric == "accuracy" else f"{row['value']:+.1f}"
            told.setdefault((SOURCES[source], percent), []).append(f"{SETS[task]}, {form} {what} {number}")
    return [f"- Bars not met, {source} at {percent}: {'; '.join(each)}." for (source, percent), each in told.items()]


def _runs(found: list[dict[str, Any]]) -> str:
    return "; ".join(f"`{each['command']}` at {each['commit'][:12]}" for each in found) + "."


def remap(found: dict[str, Any] | None) -> str:
    """Accuracy of every method by task; what share of the probe's gain is reached."""
    if found is None:
        return "Not measured yet."
    rows = _rows(found)
    tasks = [task for task in SETS if (task, "ours", "accuracy") in rows]
    lines = grid("accuracy", rows, {task: SETS[task] for task in tasks}, REMAP)
    told = [""]
    for task in tasks:
        share = rows.get((task, "ours", "share_of_gain:probe"))
        gain = rows.get((task, "ours", "accuracy_gain_over:map_only"))
        parts = [f"{share['value']:.0f} % of the probe's gain over the commonest label"] if share else []
        parts += [f"training adds {spanned(gain)}"] if gain else []
        told += [f"- {SETS[task]}: {'; '.join(parts)}."] if parts else []
    return "\n".join(_end(found, [*lines, *told]))


def infilling(found: list[dict[str, Any]]) -> str:
    """Recovery of every method, what ours gains over the frequencies, and the fold, run by run.

    Args:
        found: the results of runs of different length.
    """
    return "\n\n".join(_filled(each) for each in found) or "Not measured yet."


def _filled(found: dict[str, Any]) -> str:
    rows = _rows(found)
    whole, varied, epochs = "whole loop", "varied residues", found["settings"]["plan"]["epochs"]
    order = [method for task, method, metric in rows if (task, metric) == (whole, "recovery")]
    lines = [f"| share of residues found, {epochs} epochs | whole loop | the three that vary |", "|---|--:|--:|"]
    lines += [
        f"| `{method}` | {_said(rows[whole, method, 'recovery'])} | {_said(rows.get((varied, method, 'recovery')))} |"
        for method in order
    ]
    told = [""]
    for (task, method, metric), row in rows.items():
        if task == whole and metric.startswith("recovery_gain_over:classical"):
            told.append(f"- {method} over {metric.partition(':classical:')[2]}: {spanned(row)}.")
    return "\n".join(_end(found, [*lines, *told]))
