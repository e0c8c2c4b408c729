"""What needs no model: logistic regression of words, of a sound's bands, of a series as it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


RATE, BANDS, PARTS, POINTS = 16000, 40, 8, 128  # of a sound: Hz, mel bands, parts of its time; of a series: points


def simple(rows: Sequence[Mapping[str, Any]], y: np.ndarray, read: Sequence[str]) -> tuple[str, float, str]:
    """(what was counted, accuracy of logistic regression over five folds, why it is NaN or of fewer folds).

    Texts are TF-IDF of words and pairs of words, sounds the log of their mel bands in eight parts of time, series 128
    points.

    Args:
        rows: dict rows, without their labels.
        y: (rows,) ids of their labels.
        read: columns that the models read of a text.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    heard = next((name for name in ("audio", "series") if name in rows[0]), None)
    if heard is None:
        texts = [" ".join(row[name] for name in read if isinstance(row.get(name), str)) for row in rows]
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
        model = make_pipeline(words, LogisticRegression(C=10, max_iter=2000))
        empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            return "TF-IDF", float("nan"), f"none, as rows[{empty}] has no text in {', '.join(read)}"
        return "TF-IDF", *_folded(model, texts, y)
    made = bands(rows) if heard == "audio" else points(rows)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return "log-mels" if heard == "audio" else "the series itself", *_folded(model, made, y)


def _folded(model: Any, given: Any, y: np.ndarray) -> tuple[float, str]:
    """(accuracy, what to say of the folds)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    folds = min(5, int(np.bincount(y).min()))
    if folds < 2:
        return float("nan"), "none, as a label has one row and folds need two"
    aside = "" if folds == 5 else f"{folds} folds and not five, as a label has only {folds} rows"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        split = StratifiedKFold(folds, shuffle=True, random_state=0)
        return float(cross_val_score(model, given, y, cv=split).mean()), aside


def bands(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(rows, parts * bands) log energies of sounds of any length."""
    import torch
    from torchaudio.transforms import MelSpectrogram

    from ...data.audio import read_audio, resampled

    mel, made = MelSpectrogram(RATE, n_fft=512, hop_length=160, n_mels=BANDS), []
    for i, row in enumerate(rows):
        where = f"select(rows)[{i}]['audio']"
        wave = torch.from_numpy(resampled(*read_audio(row["audio"], where), RATE, where))
        energy = torch.nn.functional.adaptive_avg_pool1d(mel(wave), PARTS)  # (bands, parts)
        made.append((energy + 1e-6).log().flatten().numpy())
    return np.stack(made)


def points(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(rows, points) series of any length, by straight lines between their samples."""
    from ...data.audio import series_of

    grid = np.linspace(0, 1, POINTS)
    series = [series_of(row["series"], f"select(rows)[{i}]['series']") for i, row in enumerate(rows)]
    return np.stack([np.interp(grid, np.linspace(0, 1, len(each)), each) for each in series])
