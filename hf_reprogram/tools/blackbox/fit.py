"""Fit a program and a map by what the frozen model answers: first the map alone, then a search that must beat it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...errors import BudgetError, DataError, UsageError
from ...passes import at_least_one
from .optimisers import SEARCHES, Search, search_of
from .trial import Space, Trial


logger = logging.getLogger(__name__)

WORTH = 300  # evaluations from which `auto` searches at all
SEEDS = 2**32 - 1  # numpy and cma take fewer
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
        floored: share of the log-probabilities so needed that an `Endpoint` did not tell, which are a floor.
        loss, loss_of_map: of the search, at its best and without a program.
        validation, validation_of_map: accuracy of what was chosen, and of the map without a program.
        stopped: why it ended, or why there was no search.
    """

    chosen: str
    optimizer: str
    evaluations: int
    wanted: int
    sent: int
    floored: float
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
        ConfigError: an unknown search; `cma` asked for and missing, or for less than it can do.
        UsageError: fewer evaluations than one generation has points, or a number that cannot be meant.
        DataError: rows without labels, a label on fewer than two rows; a model that answers all rows alike.

    Where the model fails during the search, or you interrupt it, the best so far is left in force: the map alone, or
    a program that beat it.

    Example:

        ask = hr.Endpoint("http://127.0.0.1:8000/v1/completions", [" bad", " good"])
        base, tokenizer = hr.remote_text(ask, ["bad", "good"], source="model@1", cache="answers.db")
        model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
        print(hr.fit_blackbox(model, rows))

    Papers: 2007.08714, 2201.03514, 2303.14773; the map inside the search is ours.
    """
    for field, value in (("evaluations", evaluations), ("dimension", dimension), ("population", population)):
        at_least_one(f"fit_blackbox({field})", 1 if value is None else value)
    if not isinstance(seed, int) or not 0 <= seed < SEEDS:
        raise UsageError("fit_blackbox(seed)", f"{seed!r}", f"a whole number from 0, below {SEEDS:,}")
    if optimizer != "auto" and optimizer not in SEARCHES:
        search_of(optimizer, 2, seed)  # raises with the known ones
    trial = Trial(model, rows, validation, features, batch_size, seed)
    space = Space(model, dimension, seed)
    name, why_none = _search_name(optimizer, evaluations, space.size)
    search = None if name == "none" else _begun(name, space.size, seed, population, evaluations)
    at_start = trial.judge(space.numbers(np.zeros(space.size)))
    without = trial.validate()
    trial.remember()
    trial.listen()
    made = _Made(at_start, without, stopped=why_none)
    if search is not None:
        try:
            _search(search, space, trial, made, evaluations, progress)
        finally:  # of an endpoint that is down, or of a user who has waited long enough, the best so far is left
            trial.restore()
    if trial.alike:
        what, expected = f"the model gives the same for all {len(trial.made)} rows", "outputs that differ"
        what += f", under {trial.evaluations} programs" if trial.evaluations > 1 else ""
        fix = "look whether the rows' columns reach the model: the template, the tokenizer's unknown tokens"
        raise DataError("fit_blackbox(rows)", what, expected, fix)
    outcome = Outcome(
        chosen=made.chosen, optimizer=name, evaluations=trial.evaluations, wanted=trial.wanted, sent=trial.sent,
        floored=trial.floored, loss=made.loss, loss_of_map=at_start, validation=made.accuracy,
        validation_of_map=without[0], stopped=made.stopped,
    )  # fmt: skip
    config = model.peft_config[model.active_name()]
    # Not "seed", which is that of the program's start: the search goes on from there.
    config.training = {**(config.training or {}), "blackbox": {"seed": seed, **asdict(outcome)}}
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


def _begun(name: str, size: int, seed: int, population: int | None, evaluations: int) -> Search:
    """A search, of which at least one generation must fit into the evaluations."""
    search = search_of(name, size, seed, population)
    if evaluations < search.generation + 1:
        what = f"{evaluations} for a search whose generations have {search.generation} points"
        fix = "a larger budget, or a smaller generation, population=N"
        raise UsageError("fit_blackbox(evaluations)", what, "more than one generation has", fix)
    return search


def _search(search: Search, space: Space, trial: Trial, made: _Made, evaluations: int, progress: bool | None) -> None:
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


def _look(points: Sequence[np.ndarray], space: Space, trial: Trial, made: _Made, evaluations: int) -> bool:
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
