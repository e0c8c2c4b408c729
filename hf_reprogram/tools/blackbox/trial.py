"""What a search without gradients tries: points as a program's numbers, and what each is worth."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...batch import Reading, Readout
from ...data.rows import as_rows
from ...errors import BudgetError, ConfigError, DataError, UsageError
from ...mappings.linear import Linear, penalties_of, ridge
from ...serve import labels_of, laid_out, readouts
from ...sources.remote import channel_of


logger = logging.getLogger(__name__)

WHOLE, PROJECTED = 100, 50  # numbers up to which a program is searched whole; of the projection of a larger one
FLOORED = 0.5  # share of log-probabilities that are not told, from which it is spoken of
NOISE = 1e-3  # of the largest score: what two answers to one question may differ by without a word


class Space:
    """Points of the search as numbers of the program."""

    def __init__(self, model: Any, dimension: int | None, seed: int) -> None:
        start, unit = [np.zeros(0)], [np.zeros(0)]
        for part in model.active_programs():
            for p in (p for p in part.parameters() if p.requires_grad):
                start.append(p.detach().double().flatten().cpu().numpy())
                unit.append(np.full(p.numel(), part.stride(p)))  # a part itself knows what is far
        self.start, self.unit, self.projection = np.concatenate(start), np.concatenate(unit), None
        whole = len(self.start)
        self.size = min(whole, dimension if dimension is not None else whole if whole <= WHOLE else PROJECTED)
        if self.size < whole:
            self.projection = np.random.default_rng(seed).normal(size=(whole, self.size)) / self.size**0.5

    def numbers(self, z: np.ndarray) -> np.ndarray:
        """(program,) the numbers of a point."""
        moved = z if self.projection is None else self.projection @ z
        return self.start + self.unit * moved


class Trial:
    """One program after another, on the same rows, with what it took."""

    def __init__(self, model: Any, rows: Any, validation: Any, features: Any, batch_size: int, seed: int) -> None:
        self.model, self.batch_size, self.channel = model, batch_size, channel_of(model.backbone.base)
        self.mapping = model.active_mapping()
        if self.mapping.estimated == "never" and any(p.requires_grad for p in self.mapping.parameters()):
            what = f"the mapping {self.mapping.options.type!r} trains by gradients"
            raise UsageError("fit_blackbox", what, "a map that is estimated", 'mapping=hr.LinearConfig(on="classes")')
        if model.problem_type() != "single_label_classification":
            raise UsageError("fit_blackbox", f"a problem of type {model.problem_type()}", "one label for each row")
        if self.mapping.options.continuations() is not None:
            raise ConfigError(
                "fit_blackbox", "words of several tokens: each is a row of its own", "words of one token"
            )
        self.collator, self.made = laid_out(model, rows, features)
        if validation is None:
            self.made, self.kept = self._parted(seed)
        else:
            self.kept = self.collator.lay_out(as_rows(validation, model.text_column()))
        self.y, self.y_kept = _labels(self.made, "rows"), _labels(self.kept, "validation")
        self.member = np.eye(len(self.mapping.labels))[self.y.numpy()]
        self.parameters = [p for part in model.active_programs() for p in part.parameters() if p.requires_grad]
        self.evaluations = self.ran = 0
        channel = self.channel
        self.before = (channel.wanted, channel.sent, channel.untold) if channel else (0, 0, 0)
        self.losses: dict[str, float] = {}
        self.alike = True  # whether every row was answered alike under every program so far
        self.in_force: np.ndarray = np.zeros(0)
        self.best: tuple[np.ndarray, dict[str, Tensor]] | None = None
        if self.mapping.needs_fit and self.mapping.calibration_rows() is not None:
            model.fit_mapping()
        self.start = _copy(self.mapping)

    @property
    def wanted(self) -> int:
        """Queries that were needed."""
        return self.channel.wanted - self.before[0] if self.channel else self.ran

    @property
    def sent(self) -> int:
        """Queries that were sent; rows that ran through a local base."""
        return self.channel.sent - self.before[1] if self.channel else self.ran

    @property
    def floored(self) -> float:
        """Share of the scores that were needed which an endpoint did not tell."""
        if self.channel is None:
            return 0.0
        return (self.channel.untold - self.before[2]) / max(self.wanted * self.channel.outputs, 1)

    def listen(self) -> None:
        """Say so where a model that is asked tells little, or answers one question in two ways."""
        if self.channel is None:
            return
        if self.floored > FLOORED:
            logger.warning(
                "%.0f %% of the words' log-probabilities are not told and count as one nat below the least that is: "
                "a larger top=, or likelier words, would tell more.", 100 * self.floored,
            )  # fmt: skip
        try:
            noise = self.channel.noise(self.channel.last)
        except BudgetError as error:
            logger.info("Whether one question has one answer is not known: %s", error)
            return
        if noise > NOISE:
            logger.warning(
                "Two answers to one question (%s) differ by %.2g of the largest score: so does what is compared here; "
                "more rows make it less.", self.channel.twice, noise,
            )  # fmt: skip

    def judge(self, numbers: np.ndarray) -> float:
        """The loss of a program, and its map in force."""
        key, known = _key(numbers), self.knows(numbers)
        self.evaluations += not known
        if not known or not np.array_equal(numbers, self.in_force):
            self._put(numbers)
            values = self._read(self.made, self.readings())
            self.alike = self.alike and bool((values[0] == values[0][:1]).all())
            self.losses[key] = self._fitted(values[0], values[-1])
        return self.losses[key]

    def knows(self, numbers: np.ndarray) -> bool:
        """Whether a program was judged before."""
        return _key(numbers) in self.losses

    def validate(self) -> tuple[float, float]:
        """(accuracy, loss) on the validation rows of what is in force."""
        logits = self._said(*self._read(self.kept, self.readings()[-1:]))
        right = (logits.argmax(1) == self.y_kept).double().mean()
        return float(right), float(torch.nn.functional.cross_entropy(logits, self.y_kept))

    def remember(self) -> None:
        """Keep what is in force as the best."""
        self.best = self.in_force.copy(), _copy(self.mapping)

    def restore(self) -> None:
        """Put the best back."""
        numbers, state = self.best
        self._put(numbers)
        self.mapping.load_state_dict(state)

    def _parted(self, seed: int) -> tuple[list[Any], list[Any]]:
        from sklearn.model_selection import train_test_split

        y = _labels(self.made, "rows").tolist()
        try:
            learn, kept = train_test_split(range(len(y)), test_size=0.25, stratify=y, random_state=seed)
        except ValueError as error:
            what = f"{len(y)} rows of {len(set(y))} labels: no quarter of them has each label"
            raise DataError("fit_blackbox(rows)", what, "more rows", "validation=rows to choose by") from error
        return [self.made[i] for i in learn], [self.made[i] for i in kept]

    @torch.no_grad()
    def _put(self, numbers: np.ndarray) -> None:
        at = 0
        for p in self.parameters:
            p.copy_(torch.from_numpy(numbers[at : at + p.numel()]).view_as(p).to(p))
            at += p.numel()
        self.in_force = numbers

    def readings(self) -> list[Reading]:
        """What the map is fitted on, and last what it maps, where that is another thing."""
        mapping = self.mapping
        fits = mapping.fit_reading() if mapping.fits_rows else mapping.reading()
        reads = mapping.reading()
        # A map of some rows of the head takes them from all as well, and which they are turns at every fit.
        return [fits] if reads == fits or reads.kind == fits.kind == "rows" else [fits, reads]

    @torch.no_grad()
    def _read(self, made: Sequence[Any], readings: list[Reading]) -> list[Tensor]:
        """(rows, K) of each reading, of one pass."""
        self.ran += len(made)
        return readouts(self.model, self.collator, made, readings, self.batch_size, progress=False)

    @torch.no_grad()
    def _fitted(self, values: Tensor, read: Tensor) -> float:
        """The loss of the map that is fitted on `values` and maps `read`; it is then in force."""
        mapping = self.mapping
        mapping.load_state_dict(self.start)  # one with a memory would else judge by the programs before
        if isinstance(mapping, Linear) and mapping.options.solver == "ridge":
            z, weights = values.double().numpy(), mapping.class_weight
            weights = None if weights is None else weights.double().cpu().numpy()[self.y.numpy()]
            mapping.fit(values, self.y)
            return ridge(z, self.member, penalties_of(z, self.member, weights), weights)[3]
        if mapping.fits_rows:
            mapping.fit(values, self.y)
        return float(torch.nn.functional.cross_entropy(self._said(read), self.y))

    @torch.no_grad()
    def _said(self, read: Tensor) -> Tensor:
        """(rows, labels) what the map in force makes of what was read; beside the rows' labels, on the CPU."""
        on_device = Readout(read.to(self.model.backbone.device), kind=self.readings()[-1].kind)
        return self.mapping(on_device).float().cpu()


def _copy(mapping: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in mapping.state_dict().items()}


def _key(numbers: np.ndarray) -> str:
    """A program's digest, as the model sees its numbers."""
    return hashlib.sha256(numbers.astype(np.float32).tobytes()).hexdigest()


def _labels(made: Sequence[Any], where: str) -> Tensor:
    y = labels_of(made)
    if y is None:
        raise DataError(f"fit_blackbox({where})", "rows without labels", "a label on each row")
    return y
