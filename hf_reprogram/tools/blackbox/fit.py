"""Fit a program and a map by what the frozen model answers: first the map alone, then a search that must beat it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...batch import Readout
from ...data.rows import as_rows
from ...errors import BudgetError, ConfigError, DataError, UsageError
from ...mappings.linear import Linear, penalties_of, ridge
from ...passes import at_least_one
from ...serve import labels_of, laid_out, readouts
from ...sources.remote import channel_of
from .optimisers import SEARCHES, Search, search_of


logger = logging.getLogger(__name__)

WHOLE, PROJECTED = 100, 50  # numbers up to which a program is searched whole; of the projection of a larger one
WORTH = 300  # evaluations from which `auto` searches at all
NOISE = 1e-3  # of the largest score: what two answers to one question may differ by without a word
PATIENCE = 160  # evaluations without gain, and between two looks at the validation rows: ten generations of 16


@dataclass(frozen=True)
class Outcome:
    """What a fit found, and what it took.

    Args:
        chosen: `map only`, or `program`, where a program was better on the validation rows.
        optimizer: the search; `none` where there was none.
        evaluations: programs that were judged, on all rows to learn from.
        wanted: queries that this needed: one for each program and row.
        sent: of them that had not been asked before, and one that was asked twice; of a local model, rows that ran
            through it.
        loss, loss_of_map: of the search, at its best and without a program.
        validation, validation_of_map: accuracy of what was chosen, and of the map without a program.
        stopped: why it ended, or why there was no search.
    """

    chosen: str
    optimizer: str
    evaluations: int
    wanted: int
    sent: int
    loss: float
    loss_of_map: float
    validation: float
    validation_of_map: float
    stopped: str


def fit_blackbox(
    model: Any,
    rows: Any,
    validation: Any = None,
    evaluations: int = 1000,
    optimizer: str = "auto",
    dimension: int | None = None,
    population: int | None = None,
    features: Any = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool | None = None,
) -> Outcome:
    """Train the active program and its map without a gradient: the base is asked, and nothing else of it is used.

    First the map alone: one query for each row. From 300 evaluations on a search looks for a program under which the
    map, fitted anew for each from the answers that were given anyway, is best by the leave-one-out error of ridge (of
    other maps: by their loss). On few rows the closed form is hard to beat, and a search may fit them too well: the
    program is taken only if it is better on the validation rows, at which the search looks now and then. A model that
    is asked gets one question a second time, and a warning names it where the answers differ.

    The program's numbers are searched whole up to 100, else as start + A z with a fixed normal A of the program's own
    unit (BBT, 2201.03514). The same seed asks the same questions: with a cache on the channel of a model that is asked
    (`hr.remote_text`, `hr.remote_audio`), a run that was stopped goes on without asking any of them again.

    Args:
        model: from `get_reprogram_model`, local or asked.
        rows: labelled rows to learn from.
        validation: labelled rows to choose by; None keeps a quarter of `rows`, each label in its share.
        evaluations: programs that may be judged, each on all rows; below 300 `auto` fits the map alone.
        optimizer: auto (CMA-ES where `cma` is installed, else one_plus_one), cma, one_plus_one, bar, spsa, antithetic.
        dimension: of the search; None as above.
        population: points of a generation, where the search has them.
        features: what integer labels stand for; a dataset brings its own.
        batch_size: rows of a pass.
        seed: of the search, the projection and what is kept to choose by.
        progress: show a bar; None shows one after two seconds.

    Returns:
        An `Outcome`, which is also in the config's `training` record.

    Raises:
        ConfigError: an unknown search; `cma` asked for and missing.
        UsageError: fewer evaluations than one generation has points.
        DataError: rows without labels, a label on fewer than two rows.

    Example:

        ask = hr.Endpoint("http://127.0.0.1:8000/v1/completions", [" bad", " good"])
        base, tokenizer = hr.remote_text(ask, ["bad", "good"], source="model@1", cache="answers.db")
        model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
        print(hr.fit_blackbox(model, rows))

    Papers: 2007.08714, 2201.03514, 2303.14773; the map inside the search is ours.
    """
    at_least_one("fit_blackbox(evaluations)", evaluations)
    if optimizer != "auto" and optimizer not in SEARCHES:
        search_of(optimizer, 2, seed)  # raises with the known ones
    trial = _Trial(model, rows, validation, features, batch_size, seed)
    space = _Space(model, dimension, seed)
    at_start = trial.judge(space.numbers(np.zeros(space.size)))
    without = trial.validate()
    trial.remember()
    trial.listen()
    name, why_none = _search_name(optimizer, evaluations, space.size)
    made = _Made(at_start, without, stopped=why_none)
    if name != "none":
        search = search_of(name, space.size, seed, population)
        if evaluations < len(search.ask()) + 1:
            what = f"{evaluations} for a search whose generations have {len(search.ask())} points"
            fix = "a larger budget, or a smaller generation, population=N"
            raise UsageError("fit_blackbox(evaluations)", what, "more than one generation has", fix)
        search = search_of(name, space.size, seed, population)
        try:
            _search(search, space, trial, made, evaluations, progress)
        finally:  # of an endpoint that is down, or of a user who has waited long enough, the best so far is left
            trial.restore()
    outcome = Outcome(
        chosen=made.chosen, optimizer=name, evaluations=trial.evaluations, wanted=trial.wanted, sent=trial.sent,
        loss=made.loss, loss_of_map=at_start, validation=made.accuracy, validation_of_map=without[0],
        stopped=made.stopped,
    )  # fmt: skip
    config = model.peft_config[model.active_name()]
    config.training = {**(config.training or {}), "seed": seed, "blackbox": asdict(outcome)}
    return outcome


@dataclass
class _Made:
    """The search so far."""

    loss: float
    best: tuple[float, float]  # accuracy and loss on the validation rows of what is chosen
    chosen: str = "map only"
    stopped: str = ""

    @property
    def accuracy(self) -> float:
        return self.best[0]


def _search_name(optimizer: str, evaluations: int, size: int) -> tuple[str, str]:
    """What `auto` means here; and where it means no search, why."""
    if size == 0:
        return "none", "the program has no numbers to search: the map alone"
    if optimizer != "auto":
        return optimizer, ""
    if evaluations < WORTH:
        why = f"{evaluations} evaluations, fewer than the {WORTH} from which a search pays: the map alone"
        return "none", f"{why}; name optimizer= to search anyway"
    try:
        import cma  # noqa: F401
    except ImportError:
        return "one_plus_one", ""
    return "cma" if size > 1 else "one_plus_one", ""


def _search(
    search: Search, space: _Space, trial: _Trial, made: _Made, evaluations: int, progress: bool | None
) -> None:
    """Generations until the budget is spent or nothing is gained; the best of them on the validation rows is kept."""
    idle, unseen, seen = 0, 0, np.zeros(space.size)
    with tqdm(total=evaluations, desc="search", leave=False, delay=2, disable=progress is False) as bar:
        while True:
            points = search.ask()
            if trial.evaluations + len(points) > evaluations:
                made.stopped = "the evaluations are spent"
                break
            try:
                losses = np.array([trial.judge(space.numbers(z)) for z in points])
            except BudgetError as error:
                made.stopped = error.what
                logger.warning("The search ends: %s", error)
                break
            search.tell(points, losses)
            bar.update(len(points))
            bar.set_postfix(loss=f"{made.loss:.4f}", refresh=False)
            unseen += len(points)
            idle = 0 if losses.min() < made.loss - 1e-6 else idle + len(points)
            if losses.min() < made.loss:
                made.loss, seen = float(losses.min()), points[losses.argmin()]
            if idle >= PATIENCE:
                made.stopped = f"no gain in {idle} evaluations"
                break
            if unseen >= PATIENCE:
                unseen = 0
                if not _look([seen, search.mean], space, trial, made, evaluations):
                    break
    _look([seen, search.mean], space, trial, made, evaluations)
    if len(trial.losses) > 1 and len(set(trial.losses.values())) == 1:
        made.stopped += f"; all {len(trial.losses)} programs were answered alike"
        logger.warning(
            "The search changed no answer: all %d programs were answered alike. Either the model does not mind what "
            "the program changes, or the steps are too small; optimizer='one_plus_one' widens them.",
            len(trial.losses),
        )


def _look(points: Sequence[np.ndarray], space: _Space, trial: _Trial, made: _Made, evaluations: int) -> bool:
    """Keep a point that is better on the validation rows; False where the budget is over."""
    for z in points:
        if trial.evaluations >= evaluations and not trial.knows(space.numbers(z)):
            continue
        try:
            trial.judge(space.numbers(z))
            found = trial.validate()
        except BudgetError as error:
            made.stopped = error.what
            return False
        if found[0] > made.best[0] or (
            found[0] == made.best[0] and found[1] < made.best[1] and made.chosen != "map only"
        ):
            made.best, made.chosen = found, "program"
            trial.remember()
    return True


class _Space:
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


class _Trial:
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
        self.before = (self.channel.wanted, self.channel.sent) if self.channel else (0, 0)
        self.losses: dict[str, float] = {}
        self.in_force: np.ndarray = np.zeros(0)
        self.best: tuple[np.ndarray, dict[str, Tensor]] | None = None
        if self.mapping.needs_fit and self.mapping.calibration_rows() is not None:
            model.fit_mapping()

    @property
    def wanted(self) -> int:
        """Queries that were needed."""
        return self.channel.wanted - self.before[0] if self.channel else self.ran

    @property
    def sent(self) -> int:
        """Queries that were sent; rows that ran through a local base."""
        return self.channel.sent - self.before[1] if self.channel else self.ran

    def listen(self) -> None:
        """Say so where a model that is asked answers one question in two ways."""
        if self.channel is None:
            return
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
            values = self._read(self.made)
            self.losses[key] = self._fitted(values)
        return self.losses[key]

    def knows(self, numbers: np.ndarray) -> bool:
        """Whether a program was judged before."""
        return _key(numbers) in self.losses

    def validate(self) -> tuple[float, float]:
        """(accuracy, loss) on the validation rows of what is in force."""
        reading = self.mapping.reading() if self.mapping.estimated == "never" else self.mapping.fit_reading()
        with torch.no_grad():
            logits = self.mapping(Readout(self._read(self.kept), kind=reading.kind))
        right = (logits.argmax(1) == self.y_kept).double().mean()
        return float(right), float(torch.nn.functional.cross_entropy(logits.float(), self.y_kept))

    def remember(self) -> None:
        """Keep what is in force as the best."""
        self.best = self.in_force.copy(), {k: v.clone() for k, v in self.mapping.state_dict().items()}

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

    @torch.no_grad()
    def _read(self, made: Sequence[Any]) -> Tensor:
        """(rows, K) what the map reads."""
        reading = self.mapping.reading() if self.mapping.estimated == "never" else self.mapping.fit_reading()
        (values,) = readouts(self.model, self.collator, made, [reading], self.batch_size, progress=False)
        self.ran += len(made)
        return values

    @torch.no_grad()
    def _fitted(self, values: Tensor) -> float:
        """The loss of the map of these answers, which is then in force."""
        mapping = self.mapping
        if isinstance(mapping, Linear) and mapping.options.solver == "ridge":
            z = values.double().numpy()
            mapping.fit(values, self.y)
            return ridge(z, self.member, penalties_of(z, self.member))[3]
        if mapping.estimated != "never" and mapping.calibration_rows() is None:
            mapping.fit(values, self.y)
        reading = mapping.reading() if mapping.estimated == "never" else mapping.fit_reading()
        logits = mapping(Readout(values, kind=reading.kind)).float()
        return float(torch.nn.functional.cross_entropy(logits, self.y))


def _key(numbers: np.ndarray) -> str:
    """A program's digest, as the model sees its numbers."""
    return hashlib.sha256(numbers.astype(np.float32).tobytes()).hexdigest()


def _labels(made: Sequence[Any], where: str) -> Tensor:
    y = labels_of(made)
    if y is None:
        raise DataError(f"fit_blackbox({where})", "rows without labels", "a label on each row")
    return y
