"""Train `vocabulary` or `words` by what the frozen model answers alone: no gradient passes the base (REINFORCE).

Tokens are drawn from the program's own distribution, the frozen model answers, and each draw is judged by its loss
against the mean of the other draws of the same row (leave-one-out, M§B.4). The mapping, which stands behind the
answers, learns by its own gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data.rows import as_rows
from ..errors import BudgetError, DataError, UsageError
from ..passes import above_zero, at_least_one
from ..programs._drawn import Drawn


logger = logging.getLogger(__name__)


def leave_one_out(losses: Tensor) -> Tensor:
    """Each draw's loss less the mean loss of the other draws of its row: (draws, rows) from (draws, rows).

    Example:

        >>> leave_one_out(torch.tensor([[1.0], [2.0], [6.0]])).flatten().tolist()
        [-3.0, -1.5, 4.5]
    """
    others = (losses.sum(0) - losses) / (len(losses) - 1)
    return losses - others


def surrogate(losses: Tensor, log_probabilities: Tensor) -> Tensor:
    """A scalar whose gradient is, in the mean, that of the expected loss of a row.

    Args:
        losses: (draws, rows) of at least two draws.
        log_probabilities: (draws, rows) of what was drawn, with their graph.

    Example:

        >>> logits = torch.zeros(2, requires_grad=True)
        >>> drawn = logits.log_softmax(0)[torch.tensor([0, 1])].unsqueeze(1)  # two draws of one row
        >>> surrogate(torch.tensor([[1.0], [3.0]]), drawn).backward()
        >>> logits.grad.tolist()  # less of the first, whose loss is smaller, is worse
        [-1.0, 1.0]
    """
    return (leave_one_out(losses).detach() * log_probabilities).mean()


def fit_by_score(
    model: Any,
    rows: Any,
    epochs: int = 1,
    samples: int = 4,
    batch_size: int = 16,
    learning_rate: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    features: Any = None,
) -> list[float]:
    """Train the active program of drawn tokens, and its mapping where that trains, by the base's answers alone.

    Where the budget of a model that is asked ends in training, so does training, with a warning: what stood after the
    epoch with the least loss is kept, or in the first epoch what its steps have learned.

    Args:
        model: from `get_reprogram_model`, its programs `vocabulary` or `words`, and others that do not train.
        rows: labelled dict rows.
        epochs: times that every row is seen.
        samples: draws of tokens per row and step, each a pass of the base over the batch; at least two.
        batch_size: rows per step.
        learning_rate: of Adam; None is each part's own.
        seed: of the draws and of the order of the rows.
        progress: show a bar; None shows one from 20 steps on.
        features: what integer labels stand for; a dataset brings its own.

    Returns:
        The mean loss over rows and draws of every epoch that was finished.

    Raises:
        UsageError: no such program, other programs that train, a mapping of words of several tokens, one draw; other
            numbers that cannot be meant.
        BudgetError: the budget of a model that is asked does not suffice for the first estimate of the mapping.
        DataError: rows without labels.

    Example:

        config = hr.ReprogramConfig(program=hr.VocabularyConfig(symbols="ACGT", candidates=200),
                                    mapping=hr.LinearConfig(on="classes", solver="gradient"), labels=["N", "EI", "IE"])
        model = hr.get_reprogram_model(classifier, config, processing_class=tokenizer)
        fit_by_score(model, rows, epochs=5)

    Papers: 1809.01829; leave-one-out as in 2201.08531.
    """
    for name, value in {"epochs": epochs, "samples": samples, "batch_size": batch_size}.items():
        at_least_one(f"fit_by_score({name})", value)
    if learning_rate is not None:
        above_zero("fit_by_score(learning_rate)", learning_rate, "a number above 0, or None: each part's own")
    program = _drawn(model, samples)
    features = features if features is not None else getattr(rows, "features", None)
    if model.active_mapping().needs_fit:
        model.fit_mapping(rows, features=features)
    collator = model.collator(features=features)
    made = collator.lay_out(as_rows(rows, model.text_column()))
    odd = next((i for i, row in enumerate(made) if row.label is None), None)
    if odd is not None:
        raise DataError(f"rows[{odd}]['label']", "missing", "labels on all rows")
    rates = model.learning_rates()
    parts = {f"program.{i}": p for i, p in enumerate(model.active_programs())} | {"mapping": model.active_mapping()}
    groups = [
        {"params": list(parts[name].parameters()), "lr": rate if learning_rate is None else learning_rate}
        for name, rate in rates.items()
    ]
    optimizer, generator = torch.optim.Adam(groups), torch.Generator(model.backbone.device).manual_seed(seed)
    order, losses, best = torch.Generator().manual_seed(seed), [], {}
    steps = -(-len(made) // batch_size)
    hidden = epochs * steps < 20 if progress is None else not progress
    with tqdm(total=epochs * steps, desc="score function", unit="step", leave=False, disable=hidden) as bar:
        try:
            for _ in range(epochs):
                total = 0.0
                for part in torch.randperm(len(made), generator=order).split(batch_size):
                    found = _step(model, program, collator.stack([made[i] for i in part.tolist()]), samples, generator)
                    optimizer.zero_grad()
                    found[0].backward()
                    optimizer.step()
                    total += float(found[1].sum()) / samples
                    bar.update()
                losses.append(total / len(made))
                if losses[-1] == min(losses):
                    best = {p: p.detach().clone() for group in groups for p in group["params"]}
        except BudgetError as error:
            logger.warning("Training ends after %d of %d epochs: %s", len(losses), epochs, error)
            with torch.no_grad():
                for p, value in best.items():
                    p.copy_(value)
    return losses


def _drawn(model: Any, samples: int) -> Drawn:
    """The one program that is trained so."""
    if samples < 2:
        raise UsageError("fit_by_score(samples)", f"{samples}", "at least 2: each is judged by the others")
    programs = model.active_programs()
    learn = [p for p in programs if any(q.requires_grad for q in p.parameters())]
    if len(learn) != 1 or not isinstance(learn[0], Drawn):
        what = f"{' + '.join(p.options.type for p in learn) or 'no program'} would train"
        frozen = not learn and any(isinstance(p, Drawn) for p in programs)
        fix = "load it with is_trainable=True" if frozen else None
        raise UsageError("fit_by_score", what, "one vocabulary or words: others need a gradient through it", fix)
    if model.active_mapping().options.continuations() is not None:
        raise UsageError("fit_by_score", "words of several tokens: each is a row of its own", "words of one token")
    return learn[0]


def _step(
    model: Any, program: Drawn, columns: dict[str, Any], samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What to go down, a scalar, and the losses (draws, rows) of one batch."""
    device = model.backbone.device
    columns = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in columns.items()}
    labels = columns.pop("labels")
    batch = model.reprogrammed.batch(**columns)
    logits = program.logits(batch).log_softmax(1)  # (symbols there, candidates)
    draws = torch.multinomial(logits.detach().exp(), samples, replacement=True, generator=generator)
    losses = torch.stack([_losses(model, program, columns, draw, labels) for draw in draws.T])  # (draws, rows)
    chances = _by_row(logits.gather(1, draws), program.places(batch)).T  # (draws, rows)
    return surrogate(losses, chances) + losses.mean(), losses.detach()


def _losses(model: Any, program: Drawn, columns: dict[str, Any], draw: Tensor, labels: Tensor) -> Tensor:
    """(rows,) the loss of each, with the graph of the mapping and of nothing before it."""
    mapping = model.active_mapping()
    with program.given(draw):
        values = model.reprogrammed.readout(columns, mapping.reading())  # under no_grad
    scores = model(readout=values).logits
    each: Sequence[Tensor] = [
        mapping.loss(score[None], label[None], 1) for score, label in zip(scores, labels, strict=True)
    ]
    return torch.stack(each)


def _by_row(values: Tensor, there: Tensor) -> Tensor:
    """(rows, draws) sums over each row's symbols, from (symbols there, draws)."""
    rows = there.nonzero()[:, 0]
    return values.new_zeros(len(there), values.shape[1]).index_add(0, rows, values)
