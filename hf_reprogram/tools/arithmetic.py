"""Programs as numbers: their plain form, and sums, means and negations of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..config import STARTED_AS, ReprogramConfig
from ..errors import ConfigError, UsageError, did_you_mean
from ..tuner import build_parts, check_adapter_name
from ..wrap import start


_RECORD = f"ReprogramConfig.training[{STARTED_AS!r}]"


def fold(model: Any, adapter_name: str | None = None, into: str | None = None) -> None:
    """Replace a program by its plain form, which does the same at once: a reparametrised prompt by its vectors,
    symbols by the table that they are looked up in (most programs have none; its numbers may be more than were
    trained). Or put that beside it under the name `into`. None is the active program.
    """
    name = adapter_name or model.active_name()
    config, tensors = plain_form(model, name)
    target = check_adapter_name(name if into is None else into)
    trains = target == model.active_name() and model._trains()
    model._install(target, config, tensors, f"fold({name!r})")
    model.base_model.set_requires_grad(target, trains)


def plain_form(model: Any, name: str) -> tuple[ReprogramConfig, dict[str, Tensor]]:
    """(config, named tensors) of a program's plain form with its mapping, as an artefact holds them."""
    config = copy.deepcopy(model._config_of(name))
    begun = _parts(config)
    program, mapping = model.base_model.sites()
    folded = [part.fold(model.backbone) for part in program.entries[name]]
    options = [option for option, _ in folded]
    config.program = options[0] if len(options) == 1 else options
    tensors = {f"program.{i}.{key}": t for i, (_, state) in enumerate(folded) for key, t in state.items()}
    config.mapping, state = mapping.entries[name].fold(model.backbone)
    if _parts(config) != begun:  # the plain options with this seed would start elsewhere
        config.training = {STARTED_AS: begun, **(config.training or {})}
    return config, tensors | {f"mapping.{key}": t for key, t in state.items()}


def _parts(config: ReprogramConfig) -> dict[str, Any]:
    """Programs and mapping of a config, as its JSON has them."""
    return {"program": [part.to_dict() for part in config.programs], "mapping": config.mapping.to_dict()}


def add_weighted_adapter(
    model: Any,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str = "linear",
    seed: int | None = None,
) -> None:
    """A new program from others of the same base, layout and mapping: p = p_0 + sum over i of w_i (p_i - p_0).

    p_0 is the start that all of them were trained from, and p_i - p_0 what program i has learned, its task vector
    (2408.01119). So weights of 1 add what several have learned, weights whose sum is 1 average or interpolate, and -1
    unlearns. A single weight of 1 gives the program itself, to the bit of its plain form. PEFT's name and arguments;
    as there, the new program is not made active.

    All tensors of the plain forms (see `fold`) are combined so, those of the mapping too. The start is not stored: it
    is made again from the config and the seed that `get_reprogram_model` or `add_adapter` noted in
    `config.training["seed"]`; of a program whose form is no longer that of its start, from the options in
    `config.training["started_as"]`. A map that was estimated from rows has no start: it takes weights that sum to 1.

    Args:
        adapters: names of programs on this model; `load_adapter` brings saved ones.
        weights: one for each, of any sign.
        adapter_name: name of the new program.
        combination_type: `linear`, the one that vectors have; PEFT's others are of matrices.
        seed: that of the programs' start, where they do not say it.

    Raises:
        ConfigError: programs that differ in base, layout, type, options, mapping or start, naming the field; a name
            that is taken; weights that are no numbers, one for each.
        UsageError: an unknown program; an unknown start, or a map without one, where the start is needed.

    Example:

        >>> from hf_reprogram.testing import build, program_config
        >>> model = build(program_config("prompt"), "llama")
        >>> model.add_adapter("other", program_config("prompt"))
        >>> model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "mean")
        >>> model.add_weighted_adapter(["default"], [-1.0], "unlearned")
        >>> sorted(model.peft_config)
        ['default', 'mean', 'other', 'unlearned']
    """
    factors = _factors(model, adapters, weights, combination_type)
    check_adapter_name(adapter_name)
    if adapter_name in model.peft_config:
        raise ConfigError("adapter_name", f"{adapter_name!r} exists", "a new name", "delete_adapter first")
    forms = [plain_form(model, name) for name in adapters]
    for name, (config, _) in zip(adapters[1:], forms[1:], strict=True):
        _check_alike(adapters[0], forms[0][0], name, config)
    rest, first = 1.0 - math.fsum(factors), forms[0][1]
    needed = abs(rest) > 1e-9
    if needed:
        _check_maps(model, adapters, factors)
    begun = _start(model, adapters, seed, needed)
    made = {key: _combined(key, adapters, [t[key] for _, t in forms], factors, rest, begun) for key in first}
    config = forms[0][0]
    start = {key: value for key, value in (config.training or {}).items() if key == STARTED_AS}
    start |= {} if begun is None else {"seed": _seed(config, seed)}  # of all of them, as was seen
    config.training = {**start, "weights": dict(zip(adapters, factors, strict=True))}
    model._install(adapter_name, config, made, f"add_weighted_adapter({adapter_name!r})")


def _factors(model: Any, adapters: Any, weights: Any, combination_type: Any) -> list[float]:
    """The weights, checked with what stands beside them."""
    if combination_type != "linear":
        why = f"{combination_type!r}: programs are vectors, not updates of weight matrices"
        raise ConfigError("combination_type", why, "'linear'")
    if isinstance(adapters, str) or not isinstance(adapters, Sequence) or not adapters:
        raise ConfigError("adapters", f"{adapters!r}", "a list of names of programs")
    for i, name in enumerate(adapters):
        if name not in model.peft_config:
            raise UsageError(f"adapters[{i}]", f"unknown program {name!r}", fix=did_you_mean(name, model.peft_config))
    if len(set(adapters)) != len(adapters):
        raise ConfigError("adapters", f"a name stands twice in {list(adapters)!r}", "each once, its weights added up")
    if not isinstance(weights, Sequence) or len(weights) != len(adapters):
        raise ConfigError("weights", f"{weights!r} for {list(adapters)!r}", "one number for each")
    for i, weight in enumerate(weights):
        if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
            raise ConfigError(f"weights[{i}]", f"{weight!r}", "a finite number")
    return [float(weight) for weight in weights]


# What is not compared: where the base lies, what is filled in at save, factors of a loss that is over.
_FREE = {"program", "mapping", "base_model_name_or_path", "checksum", "training", "class_weight", "inference_mode"}


def _check_alike(name: str, one: ReprogramConfig, other_name: str, other: ReprogramConfig) -> None:
    """Raise a ConfigError for the first field in which two programs differ."""
    ours, theirs = _facts(one), _facts(other)
    for field in dict.fromkeys([*ours, *theirs]):
        if ours.get(field) != theirs.get(field):
            what = f"{ours.get(field)!r} of {name!r}, {theirs.get(field)!r} of {other_name!r}"
            expected = "programs of one base, layout, type and mapping: only then are their numbers of one kind"
            raise ConfigError(field, what, expected)


def _facts(config: ReprogramConfig) -> dict[str, Any]:
    """What must be equal, by field: which programs, then their options, the mapping's, the base, the rest."""
    found: dict[str, Any] = {"ReprogramConfig.program": [part.type for part in config.programs]}
    for part in (*config.programs, config.mapping):
        found |= {f"{type(part).__name__}.{key}": value for key, value in part.to_dict().items()}
    values = config.to_dict()
    base = {k: v for k, v in (values.pop("fingerprint") or {}).items() if k != "layers"}  # which `config` holds too
    found |= {f"ReprogramConfig.fingerprint[{k!r}]": v for k, v in base.items()}
    return found | {f"ReprogramConfig.{key}": value for key, value in values.items() if key not in _FREE}


def _check_maps(model: Any, adapters: Sequence[str], factors: list[float]) -> None:
    """Raise a UsageError for a map that was estimated from rows: nothing of it is what a program learned since."""
    for name in adapters:
        mapping = model.base_model.sites()[1].entries[name]
        if mapping.fits_rows and not mapping.needs_fit:
            what = f"{factors!r}, and the map of {name!r} ({mapping.options.type}) was estimated from rows"
            expected = "weights that sum to 1: such a map has no start that could be taken off"
            fix = "average, then fit_mapping(rows) estimates the map anew under the new program"
            raise UsageError("weights", what, expected, fix)


def _seed(config: ReprogramConfig, seed: int | None) -> int | None:
    """The seed of a program's start, `seed` where it does not say it."""
    own = (config.training or {}).get("seed")
    return seed if own is None else own


def _start(model: Any, adapters: Sequence[str], seed: int | None, needed: bool) -> dict[str, Tensor] | None:
    """The start that all these programs had; None where the weights need none and not all say their seed.

    Raises:
        ConfigError: starts that differ.
        UsageError: a program that does not say its seed, where the start is needed.
    """
    seeds = [_seed(model.peft_config[name], seed) for name in adapters]
    if None in seeds:
        if not needed:
            return None
        what = f"{adapters[seeds.index(None)]!r} does not say the seed of its start, and weights that do not sum to 1"
        raise UsageError("seed", what + " need the start", "the seed that the programs were made with", "seed=0")
    starts = [started(model, name, each) for name, each in zip(adapters, seeds, strict=True)]
    for name, begun in zip(adapters[1:], starts[1:], strict=True):
        odd = next((key for key, tensor in begun.items() if not torch.equal(tensor, starts[0][key])), None)
        if odd is not None:
            what = f"{odd} of {adapters[0]!r} (seed {seeds[0]}) and of {name!r} (seed {seeds[adapters.index(name)]})"
            own, other = (_facts(begun_config(model._config_of(each))) for each in (adapters[0], name))
            fields = [field for field in own if own[field] != other.get(field)]
            why = f" began with other numbers{': they differ in ' + fields[0] if fields else ''}"
            raise ConfigError("start", what + why, "programs trained from one start")
    return starts[0]


def begun_config(config: ReprogramConfig) -> ReprogramConfig:
    """The config with which a program was started, whatever its form is now.

    Raises:
        ConfigError: its record of that is none.
    """
    record = (config.training or {}).get(STARTED_AS)
    if record is None:
        return copy.deepcopy(config)
    if not isinstance(record, dict):
        raise ConfigError(_RECORD, f"{record!r}"[:120], "options of programs and mapping, as fold() writes them")
    return ReprogramConfig.from_dict({**config.to_dict(), **record})


def started(model: Any, name: str, seed: int) -> dict[str, Tensor]:
    """Tensors of the plain form of a program as it began, by config and seed: to the bit those it had then."""
    now = model._config_of(name)
    config, trained, other = begun_config(now), model._trains(), f"{name}_as_it_began"
    while other in model.peft_config:
        other += "_"
    model.base_model.fill(other, config, build_parts(config, model.backbone))
    try:
        start(model, other, seed)
        plain, tensors = plain_form(model, other)
    finally:
        model._forget(other)
        model.base_model.set_requires_grad(model.active_name(), trained)  # a start that calibrates wakes it
    if STARTED_AS in (now.training or {}) and _parts(plain) != _parts(plain_form(model, name)[0]):
        raise ConfigError(_RECORD, f"those of another program than {name!r}", "what fold() wrote into its record")
    return tensors


def _combined(
    key: str,
    adapters: Sequence[str],
    tensors: list[Tensor],
    factors: list[float],
    rest: float,
    begun: Mapping[str, Tensor] | None,
) -> Tensor:
    """One tensor of the new program. (1 - sum of w) p_0 + sum of w p_i, which is the task vectors' sum, but exact."""
    first = tensors[0]
    if not first.is_floating_point():
        odd = next((name for name, t in zip(adapters, tensors, strict=True) if not torch.equal(t, first)), None)
        if odd is not None:
            fix = "fit_mapping(rows) of both, or of neither" if key.endswith(".fitted") else None
            what = f"differs between {adapters[0]!r} and {odd!r}"
            raise ConfigError(key, what, "equal: it counts or names things", fix)
        return first.clone()
    total = torch.zeros_like(first, dtype=torch.float64)
    for factor, tensor in zip(factors, tensors, strict=True):
        total += factor * tensor.double()
    if begun is not None:
        total += rest * begun[key].double()
    return total.to(first.dtype)
