"""Symbols for what is asked for in laid out rows: masks filled one after another, or texts gone on with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .data.rows import as_rows
from .data.targets import Aim
from .data.text import LaidOut
from .errors import UsageError
from .passes import asleep, at_least_one, batches, check_enabled
from .template import Answer, Column, Piece, Words


# Rows -> of each, log-probabilities of the symbols at the positions that are read, (positions, symbols), on the CPU.
Run = Callable[[list[LaidOut]], list[Tensor]]
# Log-probabilities (positions, symbols) -> the symbol that is taken at each, (positions,).
Pick = Callable[[Tensor], Tensor]


@dataclass
class Filled:
    """What stands in a row's asked positions, in their order, and how probable each was when it was put there; of a
    text that ended, how probable its end was too."""

    symbols: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Geometric mean of the probabilities."""
        return math.exp(sum(self.log_probs) / max(len(self.log_probs), 1))

    def add(self, symbol: int, log_prob: float) -> None:
        """One more."""
        self.symbols.append(symbol)
        self.log_probs.append(log_prob)


def best(log_probs: Tensor) -> Tensor:
    """The likeliest symbol of each position."""
    return log_probs.argmax(-1)


def drawn(temperature: float, generator: torch.Generator | None) -> Pick:
    """A symbol of each position by its probability; below temperature 1 likely ones are drawn more often."""

    def pick(log_probs: Tensor) -> Tensor:
        shares = (log_probs / temperature).softmax(-1)
        return torch.multinomial(shares, 1, generator=generator).squeeze(-1)

    return pick


def fill(
    rows: Sequence[LaidOut], aim: Aim, options: Any, run: Run, limit: int | None, pick: Pick = best
) -> list[Filled]:
    """Symbols for all that is asked for in rows of one program.

    Args:
        rows: laid out without labels.
        aim: of their program.
        options: of its mapping: `order`, `most`.
        run: the model.
        limit: positions that a row has at most.
        pick: which symbol is taken.
    """
    open_rows = [
        replace(row, ids=[*row.ids], slots=[*row.slots], reads=aim.asked(row.ids), label=None) for row in rows
    ]
    if aim.mask is None:
        return _go_on(open_rows, aim, options.most, run, limit, pick)
    return _fill_masks(open_rows, aim, options.order, run, pick)


def _fill_masks(rows: list[LaidOut], aim: Aim, order: str, run: Run, pick: Pick) -> list[Filled]:
    found: list[dict[int, tuple[int, float]]] = [{} for _ in rows]  # position -> symbol, its log-probability
    left = [i for i, row in enumerate(rows) if row.reads]
    while left:
        for i, log_probs in zip(left, run([rows[i] for i in left]), strict=True):
            row, chosen = rows[i], pick(log_probs).tolist()
            now = _now(log_probs, order)
            for n in now:
                found[i][row.reads[n]] = chosen[n], float(log_probs[n, chosen[n]])
            left_open = [at for n, at in enumerate(row.reads) if n not in now]
            for n in now if left_open else ():
                row.ids[row.reads[n]] = aim.code(chosen[n], "predict(rows)")
            row.reads = left_open
        left = [i for i in left if rows[i].reads]
    made = []
    for each in found:
        filled = Filled()
        for _, (symbol, log_prob) in sorted(each.items()):
            filled.add(symbol, log_prob)
        made.append(filled)
    return made


def _now(log_probs: Tensor, order: str) -> list[int]:
    """Which of the open positions are filled in this pass."""
    if order == "once":
        return list(range(len(log_probs)))
    return [0 if order == "left" else int(log_probs.amax(-1).argmax())]


def _go_on(rows: list[LaidOut], aim: Aim, most: int, run: Run, limit: int | None, pick: Pick) -> list[Filled]:
    found, left = [Filled() for _ in rows], list(range(len(rows)))
    while left:
        going = []
        for i, log_probs in zip(left, run([rows[i] for i in left]), strict=True):
            row, symbol = rows[i], int(pick(log_probs))
            if symbol == aim.targets.end:
                found[i].log_probs.append(float(log_probs[0, symbol]))
                continue
            found[i].add(symbol, float(log_probs[0, symbol]))
            if len(found[i].symbols) < most and (limit is None or len(row.ids) < limit):
                row.ids.append(aim.code(symbol, "predict(rows)"))
                row.slots.append(-1)
                row.reads = aim.asked(row.ids)
                going.append(i)
        left = going
    return found


def whole(pieces: Sequence[Piece], row: Mapping[str, Any], token: str | None, parts: Sequence[str], space: str) -> str:
    """A row's columns, spaces between them, with their masks filled or with what was written after them.

    Args:
        pieces: of the template. Its own masks, the answer's among them, are filled too, and are no part of the whole.
        row: of the user's.
        token: the mask token; None of a base that goes on writing.
        parts: the symbols, in order of the positions that are asked for.
        space: what stands between symbols.

    Example:

        >>> text, answer = Column("text"), Answer()
        >>> whole([text], {"text": "EV[MASK]L[MASK]"}, "[MASK]", ["Q", "W"], "")
        'EVQLW'
        >>> whole([text], {"text": "EV"}, None, ["Q"], "")
        'EVQ'
        >>> whole([answer, text, Column("other")], {"text": "E[MASK]", "other": "V"}, "[MASK]", ["Q", "W"], "")
        'EW V'
    """
    left, texts = iter(parts), dict[str, str]()
    for piece in pieces:
        if isinstance(piece, Column):
            text = str(row[piece.name])
            if token is not None:
                first, *others = text.split(token)
                text = first + "".join(next(left) + other for other in others)
            texts.setdefault(piece.name, text)  # that of its first place, where a column stands in several
        elif token is not None:
            own = 1 if isinstance(piece, Answer) else piece.text.count(token) if isinstance(piece, Words) else 0
            for _ in range(own):
                next(left)
    found = " ".join(texts.values())
    return found if token is not None else space.join([found, *parts])


def completed(
    model: Any, collator: Any, rows: list[dict[str, Any]], made: Sequence[Any], batch_size: int, pick: Pick = best
) -> list[dict[str, Any]]:
    """What fills each row, or goes on after it, and the whole."""
    found = []
    for row, out, filled in zip(rows, made, _filled(model, collator, made, batch_size, pick), strict=True):
        name = out.adapter or model.active_name()
        aim, pieces = collator.aims[name], collator.layouts[name].pieces
        symbols = aim.targets.symbols
        parts, space = [symbols.names[i] for i in filled.symbols], " " if symbols.spaced else ""
        text = whole(pieces, row, aim.token, parts, space)
        found.append({"text": symbols.write(filled.symbols), "sequence": text, "score": filled.score})
    return found


def _filled(model: Any, collator: Any, made: Sequence[Any], batch_size: int, pick: Pick) -> list[Filled]:
    """Symbols for what is asked for in laid out rows, those of each program for themselves."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(made):
        groups.setdefault(row.adapter or model.active_name(), []).append(i)
    found: dict[int, Filled] = {}
    for name, index in groups.items():
        aim, options = collator.aims[name], model.peft_config[name].mapping

        def run(rows: list[Any]) -> list[Tensor]:
            return read_symbols(model, collator, rows, batch_size)

        found |= zip(index, fill([made[i] for i in index], aim, options, run, collator.limit, pick), strict=True)
    return [found[i] for i in range(len(made))]


def read_symbols(model: Any, collator: Any, made: Sequence[Any], batch_size: int) -> list[Tensor]:
    """Log-probabilities of the symbols at the positions that laid out rows read, (positions, symbols) of each."""
    found: dict[int, Tensor] = {}
    with asleep(model):
        for index, columns in batches(model, collator, made, batch_size, progress=False):
            scores = model(**columns).logits.float().log_softmax(-1).cpu()
            found |= {i: each[: len(made[i].reads)] for i, each in zip(index, scores, strict=True)}
    return [found[i] for i in range(len(made))]


def sample(
    model: Any,
    rows: Any,
    count: int = 10,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
) -> list[list[dict[str, Any]]]:
    """Answers that are drawn by their probability, `count` for each row, as `predict` gives them; of a mapping that
    fills masks or goes on in its own symbols.

    Args:
        rows: texts or dict rows.
        count: answers per row.
        temperature: below 1 likely symbols are drawn more often than they are likely.
        generator: of the draws, on the CPU; None is torch's own.
        batch_size: rows per forward.

    Raises:
        UsageError: a mapping that draws nothing.
    """
    at_least_one("count", count)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < 1e6:
        raise UsageError("sample(temperature)", f"{temperature!r}", "a number above 0", "predict(rows) takes the best")
    check_enabled(model)
    collator, rows = model.collator(), as_rows(rows, model.text_column())
    odd = next((row for row in rows if (row.get("adapter") or model.active_name()) not in collator.aims), None)
    if odd is not None:
        raise UsageError("sample(rows)", "a mapping that reads no symbols at positions", "one that does: tokens")
    repeated = [row for row in rows for _ in range(count)]
    made = collator.lay_out(repeated, labelled=False)
    found = completed(model, collator, repeated, made, batch_size, drawn(temperature, generator))
    return [found[i : i + count] for i in range(0, len(found), count)]


def recovered(model: Any, collator: Any, made: Sequence[Any], batch_size: int) -> dict[str, float]:
    """How often what is asked for in labelled rows is found, how probable it is at first sight, and its mean loss.

    Args:
        collator, made: that of `asking`, and what it laid out.
    """
    aim, options = collator.aims[model.active_name()], model.active_mapping().options
    scores = read_symbols(model, collator, made, batch_size)
    right = [torch.tensor(row.label) for row in made]
    losses = torch.cat([-each.gather(1, ids[:, None])[:, 0] for each, ids in zip(scores, right, strict=True)])
    if aim.mask is None or options.order == "once":
        said = [each.argmax(-1) for each in scores]
    else:
        said = [torch.tensor(each.symbols) for each in _filled(model, collator, made, batch_size, best)]
    loss = losses.mean()
    return {
        "recovery": float((torch.cat(said) == torch.cat(right)).float().mean()),
        "perplexity": float(loss.exp()),
        "loss": float(loss),
    }
