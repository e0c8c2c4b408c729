"""The family of a base: its row of data, or for a family that no row knows what the model itself says of its parts.

What a model says is only a guess, written as a row would be. `probe.py` runs it, and refuses the base with the guess
and its numbers where it does not compute what the base computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..errors import BaseModelError, did_you_mean, first_line
from .families import FAMILIES, Family
from .prefix import LANGUAGE, language_of


WRITERS = ("seq2seq", "causal", "masked")  # kinds with a language model's head


def family_of(base: PreTrainedModel, kind: str) -> Family:
    """The base's row of data, or the row that it seems to need.

    Args:
        base: a transformers model that reads.
        kind: a key of `KINDS`.

    Raises:
        BaseModelError: a part is not where the row says, or a model without a row cannot be asked for its parts.
    """
    family = FAMILIES.get(base.config.model_type)
    if family is None:
        return _asked(base, kind)
    missing = [path for path in _paths(family, kind) if not _has(base, path)]
    if missing:
        what = f"{type(base).__name__} has no {missing[0]!r}, where FAMILIES[{base.config.model_type!r}] has a part"
        raise BaseModelError("model", what, "the parts of other models of its family")
    return family


def has_row(base: PreTrainedModel) -> bool:
    """Whether the base's family has a row of its own."""
    return base.config.model_type in FAMILIES


def described(family: Family) -> str:
    """What a row says beyond the defaults: `body='model', causal=True`."""
    said = {f.name: getattr(family, f.name) for f in fields(family)}
    usual = {f.name: f.default for f in fields(family) if f.default is not MISSING}
    return ", ".join(f"{name}={value!r}" for name, value in said.items() if usual.get(name, MISSING) != value)


def _paths(family: Family, kind: str) -> list[str]:
    """Paths of the parts that a kind of model needs."""
    body = "" if kind == "encoder" else family.body
    rest = (family.head_rest,) if family.head_rest else ()
    steps = (
        (*family.transform, family.head, *rest) if kind in WRITERS else family.classify if kind == "classifier" else ()
    )
    return [f"{body}.{family.embed}".lstrip("."), *(step for step in steps if not step.startswith("@"))]


def _has(module: nn.Module, path: str) -> bool:
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _asked(base: PreTrainedModel, kind: str) -> Family:
    """A row of what the model calls its parts; of the rest, what the first known row says whose parts it has."""
    body = base.base_model_prefix if kind != "encoder" and _has(base, base.base_model_prefix) else ""
    inside = base.get_submodule(body)
    reader = _said(base, lambda: inside.encoder) if kind == "seq2seq" else inside
    embed = _path(base, inside, _said(base, reader.get_input_embeddings), nn.Embedding)
    head, transform, classify, sequence = "", (), (), False
    if kind in WRITERS:
        head = _path(base, base, _said(base, base.get_output_embeddings), nn.Linear)
        transform = _known("transform", lambda steps: _has_all(base, steps), ())
    if kind == "classifier":
        classify, sequence = _classifier(base, body)
    _said(base, lambda: base.config.hidden_size)
    prefix = ("decoder_start_token_id", *([LANGUAGE] if language_of(base) is not None else []))
    named, config = dict(base.named_modules()), lambda name: getattr(base.config, name, None) is not None
    return Family(
        body=body,
        embed=embed,
        head=head,
        transform=transform,
        softcap=_known("softcap", config),
        logits_bias=_known("logits_bias", lambda path: any(path == name for name, _ in base.named_buffers())),
        logits_scale=_known("logits_scale", config),
        logits_divisor=_known("logits_divisor", config),
        causal=kind == "causal" or (kind not in WRITERS and _writes_on(base)),
        classify=classify,
        classify_sequence=sequence,
        # RoBERTa's kin mark the row of the pad id in their table of positions; the others have no such row.
        offset_positions=any(
            name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
            for name, module in named.items()
        ),
        token_types=any(name.endswith("token_type_embeddings") for name in named),
        decoder_prefix=prefix if kind == "seq2seq" else (),
    )


def _known(field: str, fits: Callable[[Any], bool], otherwise: Any = None) -> Any:
    """What the first row says in a field that fits; rows that name more parts come first."""
    said = {value: None for row in FAMILIES.values() if (value := getattr(row, field)) not in (None, ())}
    return next((value for value in sorted(said, key=len, reverse=True) if fits(value)), otherwise)


def _has_all(base: nn.Module, steps: tuple[str, ...]) -> bool:
    return all(step.startswith("@") or _has(base, step) for step in steps)


def _classifier(base: PreTrainedModel, body: str) -> tuple[tuple[str, ...], bool]:
    """The steps of a known classifier whose parts the model has, the body called by its own name."""
    rows = sorted(FAMILIES.values(), key=lambda row: len(row.classify), reverse=True)
    for row in rows:
        steps = tuple(body + s.removeprefix(row.body) if s.startswith(f"{row.body}.") else s for s in row.classify)
        if steps and _has_all(base, steps):
            return steps, row.classify_sequence
    raise _unheard_of(base, "its classifier is none that we know")


def _writes_on(base: PreTrainedModel) -> bool:
    """Whether a model without its language model's head is of a causal family."""
    family = base.config.model_type
    return family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _said(base: PreTrainedModel, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (AttributeError, NotImplementedError) as error:
        raise _unheard_of(base, first_line(error)) from error


def _path(base: PreTrainedModel, inside: nn.Module, module: Any, wanted: type[nn.Module]) -> str:
    """Where a module lies that the model gave as its own."""
    path = next((path for path, found in inside.named_modules() if found is module), None)
    if path is None or not isinstance(module, wanted):
        raise _unheard_of(base, f"it gives {type(module).__name__} where a {wanted.__name__} of its own is due")
    return path


def _unheard_of(base: PreTrainedModel, why: str) -> BaseModelError:
    name, family = type(base).__name__, base.config.model_type
    what = (
        f"{name} is of the family {family!r}, which has no row in FAMILIES, and cannot be asked for its parts: {why}"
    )
    return BaseModelError("model", what, "a family of the README's table of methods", did_you_mean(family, FAMILIES))
