"""What `select` found: as a table for the terminal, as JSON, as Markdown, and as one page of HTML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .measures import MEASURES, RESAMPLES, interval
from .readings import NAMES


CLEAR = 0.1  # of a measure's range: less is no disagreement
RANDOM_LOGME = "random LogME"
WIDE = 0.05  # of an interval, down from the accuracy: a difference that matters may hide in it


@dataclass(frozen=True)
class Entry:
    """One reading of one model.

    Args:
        model, reading: which.
        outputs: numbers that are read of a row.
        parameters, megabytes: of the frozen base.
        milliseconds: of a row in the pass that read all.
        artefact_bytes: of the ridge map in float32.
        measures: `accuracy` and those of `MEASURES`; NaN where it cannot be said.
        low, high: 95 % of the accuracy.
        random: the measures of random weights at the same scale, their mean; {} where none was made.
        distances: `sliced` and others, where rows of the source were given.
        remarks: what to mind.
        right: (rows,) which rows were told right.
    """

    model: str
    reading: str
    outputs: int
    parameters: int
    megabytes: float
    milliseconds: float
    artefact_bytes: int
    measures: dict[str, float]
    low: float
    high: float
    random: dict[str, float]
    distances: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    right: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def accuracy(self) -> float:
        """Share of rows that are told right, each left out."""
        return self.measures["accuracy"]

    @property
    def short(self) -> str:
        """Name of the model; of a folder its last part."""
        return Path(self.model).name if Path(self.model).is_absolute() else self.model

    @property
    def name(self) -> str:
        """Model and reading."""
        return f"{self.short} · {NAMES[self.reading]}"


@dataclass(frozen=True)
class Selection:
    """Candidates, best first, beside what needs none of them.

    Args:
        entries: by accuracy.
        failed: by name of a model, or of one and its reading, why it could not be read.
        labels: names of the target labels.
        rows: that were looked at.
        majority: share of the commonest label.
        classical: accuracy over five folds of logistic regression without any model; NaN where there is none.
        random_seeds: of the random weights.
        counted: what the logistic regression is of.
        aside: why there is none, or how it differs; empty where it is as above.
    """

    entries: list[Entry]
    failed: dict[str, str]
    labels: list[str]
    rows: int
    majority: float
    classical: float
    random_seeds: int
    counted: str = "TF-IDF"
    aside: str = ""

    @property
    def best(self) -> Entry | None:
        """The first."""
        return self.entries[0] if self.entries else None

    @property
    def chance(self) -> float:
        """Accuracy of a guess among all labels alike."""
        return 1 / len(self.labels)

    def taus(self) -> dict[str, float]:
        """Kendall's tau of each measure with accuracy over the entries that have it; {} with fewer than three."""
        from scipy.stats import kendalltau

        found = {}
        for name in MEASURES:
            pairs = [(e.measures[name], e.accuracy) for e in self.entries if np.isfinite(e.measures.get(name, np.nan))]
            if len(pairs) > 2 and len({p[0] for p in pairs}) > 1 and len({p[1] for p in pairs}) > 1:
                found[name] = float(kendalltau(*zip(*pairs, strict=True)).statistic)
        return found

    def verdict(self) -> list[str]:
        """What follows, in sentences."""
        if self.best is None:
            return ["No model could be read."]
        best, said = self.best, []
        said.append(f"{best.name} is first: {_percent(best.accuracy)} [{_percent(best.low)}, {_percent(best.high)}].")
        simple = max((v, n) for v, n in ((self.majority, "majority"), (self.classical, self.counted)) if v == v)
        if best.low <= simple[0]:
            said.append(f"On these rows it is not shown to be better than {simple[1]} ({_percent(simple[0])}).")
        random = best.random.get("accuracy", -1.0)
        if best.low <= random:
            more = ": more rows may show it" if random < best.accuracy and best.accuracy - best.low > WIDE else ""
            what = f"random weights at its scale ({_percent(random)}) on {self.rows} rows{more}"
            said.append(f"Not shown to be better than {what}.")
        rivals = [e.name for e in self.entries[1:] if _gap(best, e)[0] <= 0]
        if rivals:
            said.append(f"Not shown to be worse (paired, 95 %): {', '.join(rivals)}.")
        for name, other in self._firsts():
            at_best = f"{other.short}, at best {_percent(other.accuracy)} ({NAMES[other.reading]})"
            said.append(f"{MEASURES[name].title} would take {at_best}: the measures disagree.")
        return said

    def _firsts(self) -> Iterator[tuple[str, Entry]]:
        """(measure, the best reading of the model that it puts first) where that is another model than ours and shown
        to be worse, and the measure puts it clearly before ours: by a tenth of its range over the entries.

        Model against model: LEEP and NCE look at no state, and a model may be best by one.
        """
        for name in MEASURES:
            able = [e for e in self.entries if np.isfinite(e.measures.get(name, np.nan))]
            ours = [e.measures[name] for e in able if e.model == self.best.model]
            if not ours:
                continue
            first, values = max(able, key=lambda e: e.measures[name]), [e.measures[name] for e in able]
            if first.model == self.best.model or max(values) - max(ours) <= CLEAR * (max(values) - min(values)):
                continue
            other = next(e for e in self.entries if e.model == first.model)  # the most accurate comes first
            if _gap(self.best, other)[0] > 0:
                yield name, other

    # As text ---------------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; NaN is null."""
        entries = [{k: v for k, v in vars(e).items() if k != "right"} | {"name": e.name} for e in self.entries]
        return _plain(
            {
                "rows": self.rows,
                "labels": self.labels,
                "majority": self.majority,
                "classical": self.classical,
                "counted": self.counted,
                "aside": self.aside,
                "chance": self.chance,
                "random_seeds": self.random_seeds,
                "entries": entries,
                "failed": self.failed,
                "kendall_tau_with_accuracy": self.taus(),
                "verdict": self.verdict(),
            }
        )

    def json(self) -> str:
        """The same, written out."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def columns(self) -> list[str]:
        """Heads of the table."""
        used = [n for n in MEASURES if any(np.isfinite(e.measures.get(n, np.nan)) for e in self.entries)]
        far = ["SW"] if any(e.distances for e in self.entries) else []
        far += ["bound"] if any("bound" in e.distances for e in self.entries) else []
        heads = ["model · reading", "accuracy", "95 %", "random"]
        shown = [MEASURES[n].title for n in used]
        if "logme" in used and any("logme" in e.random for e in self.entries):
            shown.insert(used.index("logme") + 1, RANDOM_LOGME)
        return [*heads, *shown, *far, "parameters", "outputs", "ms/row", "MB", "map kB"]

    def cells(self) -> list[list[str]]:
        """The table below `columns`, one list for each entry; what needs no model comes last."""
        heads, made = self.columns(), []
        by_title = {m.title: n for n, m in MEASURES.items()}
        for e in self.entries:
            cells = {
                "model · reading": e.name,
                "accuracy": _percent(e.accuracy),
                "95 %": f"{_percent(e.low)}-{_percent(e.high)}",
                "random": _percent(e.random["accuracy"]) if e.random else "",
                RANDOM_LOGME: _number(e.random.get("logme", float("nan"))),
                "SW": _number(e.distances.get("sliced", float("nan"))),
                "bound": _number(e.distances.get("bound", float("nan"))),
                "parameters": _short(e.parameters),
                "outputs": f"{e.outputs:,}",
                "ms/row": f"{e.milliseconds:.1f}",
                "MB": f"{e.megabytes:,.0f}",
                "map kB": f"{e.artefact_bytes / 1000:,.0f}",
            }
            cells |= {
                head: _number(e.measures.get(by_title[head], float("nan"))) for head in heads if head in by_title
            }
            made.append([cells[head] for head in heads])
        guesses = {
            f"{self.counted}, cross-validated": self.classical,
            "majority": self.majority,
            "chance": self.chance,
        }
        for name, value in guesses.items():
            if value == value:
                made.append([name, _percent(value), *[""] * (len(heads) - 2)])
        return made

    def notes(self) -> list[str]:
        """What the table means, and what to mind."""
        tau = ", ".join(f"{MEASURES[n].title} {t:+.2f}" for n, t in self.taus().items())
        said = [
            f"{self.rows} rows of {len(self.labels)} labels. Nothing was trained: accuracy is that of a ridge map, "
            f"each row told by the map of all others; intervals by {RESAMPLES:,} resamples of the rows.",
        ]
        if self.random_seeds:
            seeds = f"{self.random_seeds} seed(s)"
            said.append(f"random: the same on the model with random weights at its scale, the mean of {seeds}.")
        if self.aside:
            said.append(f"{self.counted}: {self.aside}.")
        if tau:
            said.append(f"Kendall's tau with accuracy over these entries: {tau}.")
        said += [f"{m.title}: {m.about}." for n, m in MEASURES.items() if m.title in self.columns()]
        if "SW" in self.columns():
            said.append("SW: sliced Wasserstein distance from the source rows' outputs, standardised together.")
        if "bound" in self.columns():
            said.append("bound: on the mean |probabilities - one-hot|, class by class; above 1.41 it says nothing.")
        of: dict[str, list[str]] = {}
        for e in self.entries:
            for remark in e.remarks:
                of.setdefault(remark, []).append(e.name)
        said += [f"{', '.join(named)}: {remark}." for remark, named in of.items()]
        return said + [f"{name} could not be read: {why}" for name, why in self.failed.items()]

    def text(self) -> str:
        """For a terminal: what follows, the table, what it means."""
        rows = [self.columns(), *self.cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*self.verdict(), "", *lines, "", *self.notes()])

    def show(self) -> None:
        """Print it."""
        print(self.text())

    def markdown(self) -> str:
        """The same for a page of Markdown."""
        heads = self.columns()
        table = [heads, ["---", *["---:"] * (len(heads) - 1)], *self.cells()]
        lines = ["| " + " | ".join(_escaped(c) for c in row) + " |" for row in table]
        notes = [f"- {note}" for note in self.notes()]
        return "\n".join(["# Models for the task", "", *self.verdict(), "", *lines, "", *notes, ""])

    def html(self) -> str:
        """One page that needs nothing else: figure, table, notes."""
        from .page import page

        return page(self)


def _gap(a: Entry, b: Entry) -> tuple[float, float]:
    """95 % interval of a's accuracy less b's, over the same rows resampled together."""
    return interval(a.right.astype(float) - b.right)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "" if not np.isfinite(value) else f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"


def _short(count: int) -> str:
    """A count in three figures: 135M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return str(count)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
