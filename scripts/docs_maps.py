"""What the README says of mappings, from the results of mapping_study.py and mapping_programs.py."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any


SOURCES = {
    "attention-rnn": "attention-RNN, 36 words",
    "moonshine-tiny": "Moonshine, first token",
    "smollm2-135m": "SmolLM2, next token",
    "minilm, anchors": "MiniLM, 50 anchors",
}
SHOTS = ("4", "16", "all")
WAYS = ("as it is", "under a program")
WIDE = 1.0  # rho from which offsets are called large
Cells = dict[tuple[str, str, str], dict[str, float]]  # (source, target, shots or way) -> map -> balanced accuracy


def cells_of(found: dict[str, Any]) -> Cells:
    """Balanced accuracies by cell."""
    cells: Cells = {}
    for row in found["rows"]:
        if row["metric"] != "balanced_accuracy" or row["method"] == "majority":
            continue
        pair, _, way = row["task"].rpartition(", ")
        source, target = pair.split(" on ")
        cells.setdefault((source, target, way), {})[row["method"]] = row["value"]
    return cells


def average(cells: Cells, source: str, shots: str, name: str) -> tuple[float, bool] | None:
    """A map's mean over the targets of a source on which it could be fitted, and whether these are all."""
    values = [marks.get(name) for (s, _, n), marks in cells.items() if (s, n) == (source, shots)]
    there = [value for value in values if value is not None]
    return (mean(there), len(there) == len(values)) if there else None


def order(cells: Cells) -> list[str]:
    """Maps, those of the best mean over the columns that they have first."""
    names = dict.fromkeys(name for marks in cells.values() for name in marks)

    def behind(name: str) -> float:
        return mean(max(marks.values()) - marks[name] for marks in cells.values() if name in marks)

    return sorted(names, key=behind)


def maps(found: dict[str, Any] | None) -> str:
    """A table of maps by source and shots, how far `auto` is from the best, and what centring is worth.

    Args:
        found: the results of mapping_study.py, None where there are none.
    """
    if found is None:
        return ""
    cells = cells_of(found)
    sources = [source for source in SOURCES if any(source == s for s, *_ in cells)]
    columns = [(source, shots) for source in sources for shots in SHOTS]
    lines = [
        f"| balanced accuracy, mean of targets | {' | '.join(f'{SOURCES[s]}: {n}' for s, n in columns)} |",
        "|---|" + "--:|" * len(columns),
    ]
    for name in order(cells):
        values = [average(cells, source, shots, name) for source, shots in columns]
        shown = " | ".join("" if v is None else f"{v[0]:.1f}{'' if v[1] else '*'}" for v in values)
        lines.append(f"| {'ridge of its states' if name == 'probe' else name} | {shown} |")
    seeds = len(found["seeds"])
    told = (
        f"{seeds} draws each. *: without targets of more labels than the source has words; "
        f"`{found['command']}` at {found['commit'][:12]}."
    )
    return "\n".join([*lines, "", *_near(found), _centring(found), told])


def _near(found: dict[str, Any]) -> list[str]:
    told = []
    for row in (row for row in found["rows"] if row["metric"].startswith("points_behind_best")):
        told.append(
            f"- `auto` is {row['value']:.1f} points behind the best map of each of {row['n']} cells in the mean, by "
            f"{row['metric'].partition(', ')[2].replace('_', ' ')}; at most {row['high']:.1f} "
            f"({row['note'].partition('worst on ')[2]})."
        )
    return told


def gains(found: dict[str, Any]) -> list[tuple[str, str, float, float]]:
    """(source, map, rho, points gained by centring) of every cell of a frozen model."""
    offset = {row["task"]: row["value"] for row in found["rows"] if row["metric"] == "rho"}
    made = []
    for row in found["rows"]:
        pair, _, shots = row["task"].rpartition(", ")
        if row["metric"] == "gain_of_centring" and pair in offset and shots in SHOTS:
            made.append((pair.split(" on ")[0], row["method"], offset[pair], row["value"]))
    return made


def _centring(found: dict[str, Any]) -> str:
    """Median gains where offsets are small and where they are large."""
    made = gains(found)

    def middle(wide: bool) -> str:
        values: Sequence[float] = [gain for *_, rho, gain in made if (rho >= WIDE) == wide]
        return (
            f"{median(values):+.1f} ({min(values):+.1f} to {max(values):+.1f}, {len(values)} cells)" if values else "-"
        )

    return (
        f"- Subtracting each output's mean before counting is worth {middle(False)} points at the median where the "
        f"means of the outputs deviate less than the outputs themselves (rho below {WIDE:g}), {middle(True)} where "
        "more."
    )


def under_programs(found: Sequence[dict[str, Any]]) -> str:
    """A table of maps by source, without a program and with one, and what the program adds.

    Args:
        found: the results of mapping_programs.py of all sources, and of those that were measured alone since.
    """
    if not found:
        return ""
    rows: list[dict[str, Any]] = []
    for each in found:
        again = {_source(row) for row in each["rows"]} - {"all"}
        rows = [row for row in rows if _source(row) not in again] + each["rows"]
    cells, shots = cells_of({"rows": rows}), found[0]["settings"]["plan"]["shots"]
    sources = [source for source in SOURCES if any(source == s for s, *_ in cells)]
    draws = {
        s: sorted({r["n"] for r in rows if r["metric"] == "balanced_accuracy" and _source(r) == s}) for s in sources
    }
    lines = [
        f"| {shots} rows a class: without a program, with one | "
        + " | ".join(f"{SOURCES[s]}, {counted(draws[s])}" for s in sources)
        + " |",
        "|---|" + "--:|" * len(sources),
    ]
    for name in order(cells):
        shown = []
        for source in sources:
            both = [average(cells, source, way, name) for way in WAYS]
            shown.append(", ".join(f"{value[0]:.1f}" for value in both if value))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    runs = "; ".join(f"`{each['command']}` at {each['commit'][:12]}" for each in found)
    told = [*(_added(rows, source) for source in sources), *_behind(cells)]
    return "\n".join([*lines, "", *told, "", f"Balanced accuracy, mean of targets; {runs}."])


def _source(row: dict[str, Any]) -> str:
    return row["task"].partition(" on ")[0].partition(", ")[0]


def _added(rows: list[dict[str, Any]], source: str) -> str:
    """What a program adds under two maps, and how often one that had learned was taken."""
    own = {(r["method"], r["metric"]): r for r in rows if r["task"] == source}
    gained = [(name, own.get((name, "gain_of_program"))) for name in ("ridge", "auto")]
    parts = [f"{r['value']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) under {name}" for name, r in gained if r]
    taken = own.get(("program", "trained_rather_than_start"))
    share = (
        f"; the rows held out chose one that had learned in {taken['value'] * taken['n']:.0f} of {taken['n']} draws"
    )
    return f"- {SOURCES[source]}: the program adds {', '.join(parts)}, over targets{share if taken else ''}."


def _behind(cells: Cells) -> list[str]:
    told = []
    for way in WAYS:
        gaps = {cell: max(marks.values()) - marks["auto"] for cell, marks in cells.items() if cell[2] == way}
        where = max(gaps, key=lambda cell: gaps[cell])
        told.append(
            f"- Of the model {way}: `auto` is {mean(gaps.values()):.1f} points behind the best map of each of "
            f"{len(gaps)} cells in the mean; at most {gaps[where]:.1f} ({where[0]} on {where[1]})."
        )
    return told


def counted(draws: Sequence[int]) -> str:
    """How many draws stand behind the numbers of a table."""
    return f"{draws[0]} draw{'' if draws == [1] else 's'}" if len(draws) == 1 else f"{draws[0]} to {draws[-1]} draws"
