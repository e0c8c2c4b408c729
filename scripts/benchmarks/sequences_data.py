"""The strings of sequences.py: peptides, antibodies, DNA; and what simple models make of them.

Read from ../shared/data. An antibody is cut to the positions at which those of the training split differ, DNA to the
forty bases round the place in question, a peptide to its first hundred acids: for every model alike.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer


DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ACIDS, BASES = "ACDEFGHIKLMNPQRSTVWY", "ACGTN"
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # C of the simple models, by validation

Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Task:
    """One set of strings.

    Args:
        name: of its folder.
        symbols: its alphabet.
        unknown: the symbol that stands for rare letters.
        aligned: whether a position means the same in every row.
    """

    name: str
    symbols: str
    unknown: str | None
    aligned: bool


TASKS = (
    Task("peptide_amp", ACIDS, None, aligned=False),
    Task("antibody_affinity", ACIDS, None, aligned=True),
    Task("dna_splice", BASES, "N", aligned=True),
)


@cache
def labels(task: Task, data: Path = DATA) -> list[str]:
    """Names of the classes."""
    return json.loads((data / task.name / "classes.json").read_text(encoding="utf-8"))


@cache
def _split(task: Task, split: str, data: Path) -> tuple[tuple[str, str], ...]:
    with gzip.open(data / task.name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple((row["text"], labels(task, data)[row["label"]]) for row in rows)


@cache
def kept_positions(task: Task, data: Path = DATA) -> tuple[int, ...]:
    """The positions of a row that are kept."""
    if task.name == "antibody_affinity":
        texts = [text for text, _ in _split(task, "train", data)]
        return tuple(i for i, letters in enumerate(zip(*texts, strict=True)) if len(set(letters)) > 1)
    return tuple(range(10, 50) if task.aligned else range(100))


def rows(
    task: Task, split: str, seed: int = 0, share: float = 1.0, most: int | None = None, data: Path = DATA
) -> Rows:
    """The first rows of a split after a seeded shuffle.

    Args:
        seed: of the shuffle.
        share: how much of the split.
        most: at most so many.
    """
    found = list(_split(task, split, data))
    random.Random(seed).shuffle(found)
    found = found[: max(round(share * len(found)), 1)][:most]
    kept = kept_positions(task, data)
    return [{"text": "".join(text[i] for i in kept if i < len(text)), "label": label} for text, label in found]


def one_hot(texts: Sequence[str], symbols: str, length: int) -> np.ndarray:
    """(rows, length * symbols): which symbol stands at each position; nothing behind the end.

    Example:

        >>> one_hot(["BA"], "AB", 3).tolist()
        [[0.0, 1.0, 1.0, 0.0, 0.0, 0.0]]
    """
    made = np.zeros((len(texts), length, len(symbols)))
    for i, text in enumerate(texts):
        for j, letter in enumerate(text[:length]):
            if letter in symbols:
                made[i, j, symbols.index(letter)] = 1
    return made.reshape(len(texts), -1)


def simple(task: Task, train: Rows, validation: Rows, test: Rows) -> dict[str, tuple[np.ndarray, str]]:
    """What models that know no language get right of the test rows, and the penalty that validation chose.

    Returns:
        method -> ((rows,) 1 where it is right, note).
    """
    length = max(len(row["text"]) for row in train)
    makers = {
        "classical:one_hot": lambda: FunctionTransformer(lambda texts: one_hot(texts, task.symbols, length)),
        "classical:ngrams": lambda: TfidfVectorizer(
            analyzer="char", ngram_range=(1, 3), sublinear_tf=True, lowercase=False
        ),
    }
    given = [row["label"] for row in train]
    commonest = max(sorted(set(given)), key=given.count)
    found = {"majority": (np.array([row["label"] == commonest for row in test], dtype=float), "")}
    for method, maker in makers.items():
        models = [make_pipeline(maker(), LogisticRegression(C=c, max_iter=2000)) for c in PENALTIES]
        for model in models:
            model.fit([row["text"] for row in train], given)
        best = max(models, key=lambda model: _right(model, validation).mean())  # the strongest penalty among equals
        found[method] = (_right(best, test), f"C {best[-1].C:g}")
    return found


def _right(model: object, judged: Rows) -> np.ndarray:
    guesses = model.predict([row["text"] for row in judged])
    return np.array([guess == row["label"] for guess, row in zip(guesses, judged, strict=True)], dtype=float)
