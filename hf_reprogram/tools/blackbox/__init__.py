"""Training by answers alone: programs of a model that is asked and gives no gradient."""

from __future__ import annotations

from .fit import Outcome, fit_blackbox


__all__ = ["Outcome", "fit_blackbox"]
