"""The tasks of remap.py: what is a symbol, who is drawn, and the models without a victim. Fixed before a test row."""

from __future__ import annotations

import gzip
import json
import random
import string
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import ROOT


DATA = ROOT.parent / "shared" / "data"
Rows = list[dict[str, str]]
OTHER = "<other>"


@dataclass(frozen=True)
class Task:
    """One task and all that was fixed beforehand.

    Args:
        name: of its folder in shared/data.
        labels: names of the labels.
        symbols: characters; None is the words that stand twice in the rows to learn from.
        context: symbols that decide what one becomes.
        candidates, few_candidates: tokens to become, through the victim and by its answers alone.
        middle: so many characters of the text are kept, from its middle; None for all.
        grams: of the classical model: analyzer and range.
        seen: so many test rows, the first after the shuffle, were looked at while this was made: others are judged.
    """

    name: str
    labels: tuple[str, ...]
    symbols: str | None
    context: int
    candidates: int
    few_candidates: int
    middle: int | None
    grams: tuple[str, tuple[int, int]]
    seen: int = 0

    @property
    def told(self) -> dict[str, Any]:
        """As settings in the results."""
        return {k: v for k, v in vars(self).items() if k not in ("name", "labels")}

    def program(self, train: Rows) -> dict[str, Any]:
        """Options of the program."""
        shared = {"context": self.context, "candidates": self.candidates}
        if self.symbols is not None:
            return {"symbols": list(self.symbols), "unknown": self.symbols[-1], **shared}
        count = Counter(word for row in train for word in row["text"].split())
        words = sorted(word for word, n in count.items() if n > 1)
        return {"symbols": [*words, OTHER], "unknown": OTHER, "spaced": True, **shared}


NAMES = Task(
    "names18",
    ("Arabic", "Chinese", "Czech", "Dutch", "English", "French", "German", "Greek", "Irish", "Italian", "Japanese",
     "Korean", "Polish", "Portuguese", "Russian", "Scottish", "Spanish", "Vietnamese"),
    string.ascii_lowercase + " '-.", 3, 1000, 200, None, ("char", (1, 3)), seen=400,
)  # fmt: skip
TREC = Task(
    "trec", ("abbreviation", "entity", "description", "human", "location", "number"),
    None, 1, 2000, 2000, None, ("word", (1, 2)),
)  # fmt: skip
DNA = Task(
    "dna_splice", ("exon-intron (EI)", "intron-exon (IE)", "neither (N)"),
    "acgtn", 5, 1000, 200, 24, ("char", (1, 3)),
)  # fmt: skip
TASKS = (TREC, NAMES, DNA)


def read(task: Task, split: str, folder: Path = DATA) -> Rows:
    """Rows of `text`, in lower case, and `label` of one split."""
    names = json.loads((folder / task.name / "classes.json").read_text(encoding="utf-8"))
    with gzip.open(folder / task.name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [{"text": _cut(row.get("ascii", row["text"]).lower(), task.middle), "label": names[row["label"]]}
            for row in found]  # fmt: skip


def _cut(text: str, middle: int | None) -> str:
    start = 0 if middle is None else (len(text) - middle) // 2
    return text if middle is None else text[start : start + middle]


def draw(rows: Rows, sizes: tuple[int, ...], seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from, two of every label among them, and to choose on: others."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    seen: Counter[str] = Counter()
    first, rest = [], []
    for row in shuffled:
        (first if seen[row["label"]] < 2 else rest).append(row)
        seen[row["label"]] += 1
    ordered = [*first, *rest]
    return ordered[: sizes[0]], ordered[sizes[0] : sum(sizes)]


def classical(task: Task, train: Rows, validation: Rows, test: Rows) -> dict[str, list[str]]:
    """Guesses of logistic regressions without a victim: TF-IDF of words or characters; of DNA its places too.

    C is chosen on the validation rows.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OneHotEncoder

    analyzer, grams = task.grams
    texts = [[row["text"] for row in part] for part in (train, validation, test)]
    labels = [[row["label"] for row in part] for part in (train, validation)]
    ways: dict[str, Any] = {"tfidf": TfidfVectorizer(analyzer=analyzer, ngram_range=grams, sublinear_tf=True)}
    if task.middle is not None:
        ways["places"] = OneHotEncoder(handle_unknown="ignore")
    guesses = {}
    for name, features in ways.items():
        given = texts if name == "tfidf" else [[list(text) for text in part] for part in texts]
        learned = features.fit_transform(given[0])
        models = [LogisticRegression(C=c, max_iter=2000).fit(learned, labels[0]) for c in (0.1, 1.0, 10.0, 100.0)]
        best = max(models, key=lambda model: model.score(features.transform(given[1]), labels[1]))
        guesses[name] = best.predict(features.transform(given[2])).tolist()
    return guesses
