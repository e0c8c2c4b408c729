"""Explain: what programs and mapping mean, as rows that print as a page; how loud sounds are against a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from .batch import Batch
from .errors import UsageError
from .passes import asleep, batches
from .processors import tokenizer_of
from .serve import laid_out


class Explanation(dict):
    """What a program says of itself: a dict that prints as a page."""

    def __str__(self) -> str:
        mapping = f"{self['mapping']['type']} of {self['mapping']['reads']}" if self["mapping"] else "none"
        lines = [f"program {self['program']}, mapping {mapping}"]
        for row in self["slots"]:
            near = ", ".join(f"{t!r} {d:.2f}" for t, d in zip(row["tokens"], row["distances"], strict=True))
            lines.append(f"  slot {row['slot']:>3}  {'far from every token' if row['far'] else 'near':<21} {near}")
        if any(row["far"] for row in self["slots"]):
            lines.append(
                "  A slot far from every token has no meaning in words: its neighbours are only the least far ones."
            )
        if self["slots"]:
            lines.append(
                "  (distances in lengths of an average token; 95 in 100 tokens have a neighbour within "
                f"{self['slots'][0]['usual']:.2f})"
            )
        lines += [f"  {facts_line(row)}" for row in (*self["facts"], *self["ratios"])]
        for key, value in self["mapping"].items():
            lines.append(f"  {key}: {value}")
        return "\n".join(lines)


def facts_line(row: dict[str, Any]) -> str:
    """A plain row of facts as text.

    Example:

        >>> facts_line({"samples": 320, "rms": 0.012345})
        'samples 320, rms 0.01235'
    """
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def explain(model: Any, rows: Any = None, neighbours: int = 3, features: Any = None) -> Explanation:
    """What the programs mean, and what the mapping reads.

    Of vectors in slots: their nearest source tokens, at distances in lengths of an average token vector. `far` is true
    where a slot lies farther from its nearest token than tokens lie from each other; such neighbours mean nothing. Of
    other programs: plain `facts`, where token ids that a program names come back as tokens; with `rows`, of a program
    that reads symbols among their neighbours, of the commonest neighbourhoods in these. Of sound with `rows`: how loud
    the signal is against what the program changes, by label.

    Args:
        rows: texts or dict rows for a program that reads neighbours; of sound, for `ratios`, dict rows, those without
            a label being one group.
        neighbours: tokens per slot.
        features: what integer labels stand for; a dataset brings its own.

    Raises:
        UsageError: rows, and no program that changes a wave or reads neighbours; rows of another program.
    """
    programs = model.active_programs()
    _check_rows(programs, rows)
    batch = _laid(model, rows) if rows is not None and any(p.explains_rows for p in programs) else None
    given = [{"batch": batch} if p.explains_rows else {} for p in programs]
    found = [row for p, more in zip(programs, given, strict=True) for row in p.explain(model.backbone, **more)]
    slots = [row for row in found if "slot" in row]
    tokenizer = tokenizer_of(model.processing_class)

    def token(i: int) -> str:
        return tokenizer.decode([i]) if tokenizer is not None else f"<{i}>"

    for row in slots:
        ids = row["ids"][:neighbours]
        row.update(ids=ids, tokens=[token(i) for i in ids], distances=row["distances"][:neighbours])
    mapping = model.active_mapping()
    told = mapping.explain()
    return Explanation(
        program=_types(programs),
        slots=slots,
        facts=[_in_tokens(row, token) for row in found if "slot" not in row],
        ratios=[] if rows is None or batch is not None else _ratios(model, rows, features),
        mapping=_named(_in_tokens({"type": mapping.options.type, **told} if told else told, token), token),
    )


def _named(facts: dict[str, Any], token: Callable[[int], str]) -> dict[str, Any]:
    """Facts of a mapping, those of its source labels that are numbers of tokens as what they are called."""

    def name(source: str | int) -> str:
        return token(source) if isinstance(source, int) else source

    sources = facts.get("source labels", {})
    for label, found in sources.items():
        sources[label] = {name(k): weight for k, weight in found.items()}
    return facts


def _in_tokens(row: dict[str, Any], token: Callable[[int], str]) -> dict[str, Any]:
    """A row of facts, each id (or list or dict of ids) in its `ids` as what it is called, under the same name."""
    made: dict[str, Any] = {}
    for key, value in row.items():
        if key != "ids":
            made[key] = value
            continue
        for name, ids in value.items():
            if isinstance(ids, dict):
                made[name] = {each: token(i) for each, i in ids.items()}
            else:
                made[name] = [token(i) for i in ids] if isinstance(ids, list) else token(ids)
    return made


def _check_rows(programs: Sequence[Any], rows: Any) -> None:
    """Raise where there are rows, and no program has more to say of them."""
    if rows is not None and not any(p.explains_rows or p.accepts == "wave" for p in programs):
        what = f"rows, and no program that changes a wave or reads neighbours: {_types(programs)}"
        raise UsageError("explain(rows)", what, "no rows: nothing in them is explained", "model.explain()")


def _types(programs: Sequence[Any]) -> str:
    return " + ".join(p.options.type for p in programs)


def _laid(model: Any, rows: Any) -> Batch:
    """Rows of the active program as one batch."""
    collator, made = laid_out(model, rows, None, labelled=False)
    _check_own(model, made)
    ((_, columns),) = batches(model, collator, made, len(made), progress=False)
    return model.reprogrammed.batch(**columns)


def _check_own(model: Any, made: Sequence[Any]) -> None:
    """Raise for a row of another program than the active one."""
    odd = next((i for i, row in enumerate(made) if row.adapter not in (None, model.active_name())), None)
    if odd is not None:
        what, expected = f"program {made[odd].adapter!r}", f"rows of the active one, {model.active_name()!r}"
        raise UsageError(f"rows[{odd}]['adapter']", what, expected, "set_adapter(name)")


Energies = list[tuple[float, float]]  # of rows: the canvas's, and that of what was changed


def _ratios(model: Any, rows: Any, features: Any) -> list[dict[str, Any]]:
    """Signal to program in dB, label by label: energy of the canvases over that of what was changed; and of the rows
    each for itself the lowest and the highest."""
    programs = model.active_programs()
    collator, made = laid_out(model, rows, features)
    _check_own(model, made)
    names, found = model.peft_config[model.active_name()].labels or [], dict[str, Energies]()
    with asleep(model):
        for index, columns in batches(model, collator, made, progress=False):
            batch = model.reprogrammed.batch(**columns)
            heard = through_waves(programs, batch, model.backbone)
            own = carried(batch, heard)
            energies = zip(
                own.square().sum(1).tolist(), (heard.input_values - own).square().sum(1).tolist(), strict=True
            )
            for i, pair in zip(index, energies, strict=True):
                for name in _groups(made[i].label, names, model.problem_type()):
                    found.setdefault(name, []).append(pair)
    return [_ratio(name, found[name]) for name in [*names, "all rows"] if name in found]


def _groups(label: Any, names: list[str], problem_type: str) -> list[str]:
    """Names of the groups of rows to which one belongs, by its label."""
    if label is None or problem_type in ("regression", "transcription"):
        return ["all rows"]
    return [names[label]] if isinstance(label, int) else [n for n, v in zip(names, label, strict=True) if v > 0.5]


def _ratio(name: str, energies: Energies) -> dict[str, Any]:
    each = [_decibels(*pair) for pair in energies]
    total = _decibels(sum(own for own, _ in energies), sum(other for _, other in energies))
    return {
        "label": name, "rows": len(each), "signal to program dB": total, "lowest": min(each), "highest": max(each)
    }  # fmt: skip


def _decibels(own: float, other: float) -> float:
    """A ratio of energies in dB; above 200 nothing is added."""
    return 10 * math.log10(own / max(other, 1e-20 * own))


def through_waves(programs: Iterable[Any], batch: Batch, backbone: Any) -> Batch:
    """The batch after those of the programs that change the wave; they come first."""
    for program in programs:
        if program.accepts == "wave":
            batch = program(batch, backbone)
    return batch


def carried(batch: Batch, heard: Batch) -> Tensor:
    """The canvas where programs of the wave leave it: one that puts a sound before it pushes it on.

    Args:
        batch: before the programs.
        heard: after those of the wave.

    Returns:
        (batch, samples of `heard`).

    Example:

        >>> import torch
        >>> before = Batch(input_values=torch.tensor([[1.0, 2.0, 0.0]]), signal_mask=torch.tensor([[1, 1, 0]]) > 0)
        >>> after = Batch(input_values=torch.tensor([[9.0, 1.0, 2.0]]), signal_mask=torch.tensor([[0, 1, 1]]) > 0)
        >>> carried(before, after).tolist()
        [[0.0, 1.0, 2.0]]
    """
    wave, samples = batch.input_values, heard.input_values.shape[1]
    starts = [mask.int().argmax(1) for mask in (batch.signal_mask, heard.signal_mask)]
    made = wave.new_zeros(len(wave), samples)
    for row, by in enumerate((starts[1] - starts[0]).tolist()):
        kept = wave[row, : samples - by]
        made[row, by : by + len(kept)] = kept
    return made
