"""Estimating a mapping: before the first step, and again while a program trains under it."""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback


logger = logging.getLogger(__name__)


def estimate(model: Any, rows: Any, features: Any = None) -> None:
    """Fit the active mapping on the training rows where it is estimated and not yet fitted.

    Args:
        model: on every rank of a process group; each reads its share of the rows.
        rows: the training rows, live or frozen.
        features: what their integer labels stand for.
    """
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows, features=features)


def refits(model: Any) -> bool:
    """Whether the active mapping is to be estimated again: a program trains under it, and its options say so."""
    learns = any(p.requires_grad for program in model.active_programs() for p in program.parameters())
    return learns and getattr(model.active_mapping().options, "refit_every", None) is not None


class Refit(TrainerCallback):
    """Estimates the active mapping anew after every `refit_every` epochs, until `refit_until` of all steps are done.

    At the end of an epoch and not at the start of the next, where a run that is resumed in the midst of one would do
    it once more.

    Args:
        model, rows, features: as of `estimate`.
    """

    def __init__(self, model: Any, rows: Any, features: Any = None) -> None:
        self.model, self.rows, self.features = model, rows, features

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Estimate, and say how many source labels changed hands where the map is one of indices."""
        mapping = self.model.active_mapping()
        options, epoch = mapping.options, round(state.epoch)
        if epoch % options.refit_every or state.global_step >= options.refit_until * state.max_steps:
            return
        before = {name: buffer.clone() for name, buffer in mapping.named_buffers() if name == "indices"}
        self.model.fit_mapping(self.rows, features=self.features)
        for name, old in before.items():
            changed = int((old != getattr(mapping, name)).sum())
            logger.info("epoch %d: %d of %d source labels changed", epoch, changed, old.numel())
