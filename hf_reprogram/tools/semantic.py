"""Labels by their names: which of a classifier's own classes mean the same as a target label (AutoVP)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import ConfigError, UsageError
from ..mappings.base import check_enough
from ..mappings.labels import LabelsConfig, assigned
from ..mappings.similarity import cosines


def labels_by_name(
    base: Any, labels: Sequence[str], encoder: Any, tokenizer: Any, per_label: int = 1, **options: Any
) -> LabelsConfig:
    """A `labels` mapping in which each target label stands for the classes whose names are most like its own.

    Names are compared by the cosine of their mean last hidden states; the groups are those with the largest sum of
    cosines. No row is needed for it.

    Args:
        base: a classifier whose config names its classes (`id2label`).
        labels: names of the target labels.
        encoder: a frozen text encoder of transformers (sentence-transformers/all-MiniLM-L6-v2 is a small one).
        tokenizer: its tokenizer.
        per_label: classes for each label.
        options: of `LabelsConfig`, as `scores`.

    Returns:
        Options with `groups` by name, to look through and to change before they are used.

    Raises:
        UsageError: a base whose classes have no names.
        ConfigError: too few classes.

    Source: Semantic mapping of AutoVP (2310.08381), there class by class; here all at once.

    Example:

        >>> from hf_reprogram.testing import tiny
        >>> base, _ = tiny("bert-classifier")
        >>> base.config.id2label = {0: "good", 1: "bad", 2: "day"}
        >>> labels_by_name(base, ["a bad day", "good"], *tiny("bert-encoder")).groups["good"]
        ['good']
    """
    names = {int(i): str(name) for i, name in (getattr(base.config, "id2label", None) or {}).items()}
    if not names or all(name == f"LABEL_{i}" for i, name in names.items()):
        what = f"the classes of {type(base).__name__} have no names"
        raise UsageError("labels_by_name(base)", what, "config.id2label with names", "method='frequency' needs none")
    check_enough(len(names), len(labels), per_label, "labels_by_name(per_label)")
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError("labels_by_name(labels)", f"{list(labels)!r}", "names, each once")
    likeness = cosines(_states(encoder, tokenizer, list(names.values())), _states(encoder, tokenizer, list(labels)))
    chosen, listed = assigned(likeness, per_label), list(names.values())
    groups = {label: [listed[k] for k in row] for label, row in zip(labels, chosen.tolist(), strict=True)}
    return LabelsConfig(method="given", groups=groups, **options)


@torch.no_grad()
def _states(encoder: Any, tokenizer: Any, names: list[str]) -> np.ndarray:
    """(names, dim) mean last hidden states, of each name alone."""
    made, awake = [], encoder.training
    encoder.eval()
    try:
        for name in names:
            columns = tokenizer(name.replace("_", " "), return_tensors="pt").to(encoder.device)
            found = encoder(**columns)
            if "last_hidden_state" not in found:
                what = f"a {type(encoder).__name__}, which gives no states"
                raise UsageError("labels_by_name(encoder)", what, "a bare encoder: AutoModel.from_pretrained(...)")
            made.append(found.last_hidden_state[0].mean(0).double().cpu().numpy())
    finally:
        encoder.train(awake)
    return np.stack(made)
