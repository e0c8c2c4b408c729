"""From a bare base and a config to what a model is made of: wrapped base, resolved config; and a watch on the rate."""

from __future__ import annotations

import copy
import dataclasses
import math
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from peft import PeftModel
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import PreTrainedModel

from . import artefact
from .backbone.probe import probe
from .batch import Reading
from .canvas import CanvasConfig
from .config import STARTED_AS, ReprogramConfig
from .data.audio import AudioCollator
from .data.audio import layout_of as canvas_of
from .data.text import TextCollator, layout_of
from .errors import ArtefactError, BaseModelError, ConfigError, TemplateError, nearest
from .fingerprint import identity, look_again, remembered
from .processors import check_processor, tokenizer_of
from .registry import method_class, names
from .reprogrammed import Reprogrammed
from .template import Answer, Column, Words, columns, has_answer, parse
from .tuner import build_parts, parts_state


def wrap(base: PreTrainedModel, processor: Any = None) -> Reprogrammed:
    """A base, frozen and proved, with empty sites."""
    check_processor(processor)
    check_base(base)
    look_again(base)
    wrapped = Reprogrammed(base, processor)
    try:
        probe(wrapped.backbone)
    except Exception:
        wrapped.backbone.restore()
        raise
    return wrapped


def check_base(base: Any) -> None:
    """Raise where what stands in the base's place is no bare model of transformers."""
    if isinstance(base, PeftModel | Reprogrammed):
        ours = isinstance(base, Reprogrammed) or isinstance(base.base_model.model, Reprogrammed)
        fix = "add_adapter puts a second program on a model that has one" if ours else "model.merge_and_unload() first"
        raise BaseModelError("model", f"is a {type(base).__name__}", "a bare transformers model", fix)
    if not isinstance(base, PreTrainedModel):
        what = f"{base!r} is a {type(base).__name__}"[:120]
        fix = "AutoModelForCausalLM.from_pretrained(...) loads one"
        raise BaseModelError("model", what, "a transformers PreTrainedModel", fix)


def check_config(config: Any) -> None:
    """Raise where what stands in the config's place is none."""
    if not isinstance(config, ReprogramConfig):
        what = f"{config!r} is a {type(config).__name__}"[:120]
        raise ConfigError("config", what, "a ReprogramConfig", "the order is (model, config, processing_class)")


def resolve(config: ReprogramConfig, backbone: Any, processor: Any) -> ReprogramConfig:
    """A copy of the config with what base and processor fill in."""
    check_config(config)
    config = copy.deepcopy(config)
    config.validate()
    for part in (*config.programs, config.mapping):
        part.validate()  # again: a field may have been set since
    tokenizer = tokenizer_of(processor)
    _check_stages(config, backbone)
    # Asked before words become tokens, so that a base without a vocabulary is told so, and after: some have several.
    config.mapping.suits(backbone.gives, type(backbone.base).__name__)
    config.mapping.resolve(tokenizer, config.labels)
    config.mapping.suits(backbone.gives, type(backbone.base).__name__)
    _mind_the_head(config, backbone)
    if backbone.modality == "text":
        _mind_the_space(config, backbone, tokenizer)
    else:
        config.canvas = _canvas(config.canvas or CanvasConfig(), backbone)
    _check_place(config, backbone, tokenizer)
    for part in config.programs:
        part.resolve(config.canvas, backbone, _reading(config, backbone))
    config.base_model_name_or_path = backbone.base.config._name_or_path or None
    config.base_auto_class = backbone.auto_class
    config.embedding_rms = remembered(backbone.base, "rms", lambda _: backbone.rms())
    if not math.isfinite(config.embedding_rms):
        what = f"the embeddings of this {type(backbone.base).__name__} hold numbers that are not finite"
        raise BaseModelError("model", what, "finite weights", "load the checkpoint again")
    config.fingerprint = identity(backbone.base, processor)
    return config


def _check_place(config: ReprogramConfig, backbone: Any, tokenizer: Any) -> None:
    """What the mapping reads has a place in the rows as the config lays them out."""
    if backbone.modality == "text":
        _check_answer(config, backbone, tokenizer)
    else:
        _check_pool(config, backbone)


def _check_answer(config: ReprogramConfig, backbone: Any, processor: Any) -> None:
    """The template has an answer slot where the mapping reads one, at a place where this base can answer."""
    template = config.layout() or "{text}"
    where = f"{type(config.programs[0]).__name__}.template"
    pieces = parse(template, where)
    reading = _reading(config, backbone)
    if reading.kind == "positions" and has_answer(pieces) and backbone.facts.answer == "mask":
        warnings.warn(
            f"{where}: {{answer}} in {template!r} is a mask like those of the rows: each has one more to fill. "
            "Fix: a template without {answer}.",
            UserWarning,
            stacklevel=4,
        )
    needs = reading.kind in ("rows", "sequence", "text") or (
        reading.kind == "state" and reading.pool in ("answer", "head")
    )
    answer, base = backbone.facts.answer, type(backbone.base).__name__
    if answer == "none" and (needs or has_answer(pieces)):
        raise ConfigError(
            where if has_answer(pieces) else "ReprogramConfig.mapping",
            f"{{answer}} in {template!r}, and a {base} answers nowhere"
            if has_answer(pieces)
            else f"the {config.mapping.type} reads an answer slot, and a {base} has none",
            "no answer slot in the template" if has_answer(pieces) else "a mapping that reads another state",
            "leave {answer} out" if has_answer(pieces) else "pool='mean' or 'first'",
        )
    if needs and not has_answer(pieces):
        expected = f"one answer slot, which the {config.mapping.type} reads"
        meant = nearest("answer", columns(pieces))
        end = "{answer}" if isinstance(pieces[-1], Words) else " It was{answer}"
        fix = f'try "{template + end}"' if meant is None else f"did you mean {{answer}} by {{{meant}}}?"
        raise TemplateError(where, f"no {{answer}} in {template!r}", expected, fix)
    if has_answer(pieces) and answer == "last" and not isinstance(pieces[-1], Answer):
        raise ConfigError(
            where,
            f"{{answer}} is not last in {template!r}",
            "a causal model answers at the end",
            "move {answer} to the end",
        )
    if has_answer(pieces) and answer == "mask" and processor is not None and processor.mask_token_id is None:
        raise ConfigError(
            where, "{answer} needs a mask token, and the tokenizer has none", "a tokenizer with mask_token"
        )
    if processor is not None:
        # Made and thrown away: it raises where slots and words leave no room for text.
        TextCollator(processor, {"default": layout_of(config)}, "default", backbone.facts)


def _reading(config: ReprogramConfig, backbone: Any) -> Reading:
    """What the config's mapping reads, resolved."""
    mapping = method_class("mapping", config.mapping.type)
    return mapping(config.mapping, backbone, config.labels, config.problem_type).reading()


def _mind_the_head(config: ReprogramConfig, backbone: Any) -> None:
    """Warn of a classifier that was never trained: `from_pretrained` says so once, and loses it (S19)."""
    if "classes" not in config.mapping.reads() or "classes" not in backbone.gives:
        return
    heads = [m for m in backbone.base.modules() if getattr(m, "out_features", None) == backbone.classes]
    bias = getattr(heads[-1], "bias", None) if heads else None
    if bias is not None and not bias.is_meta and not bool(bias.any()):
        warnings.warn(
            f"model: the classifier of this {type(backbone.base).__name__} has a bias of zeros, as one has that was "
            "never trained: its classes mean nothing. Fix: a fine-tuned checkpoint, or linear with on='state'.",
            UserWarning,
            stacklevel=4,
        )


def _mind_the_space(config: ReprogramConfig, backbone: Any, processor: Any) -> None:
    """Warn of label words that would be glued to what stands before the answer: "It wasgood" (U§10).

    Only where the tokenizer has another token for the word after a space; where a space is due is known of text and of
    words that end in a letter or a punctuation mark, not of slots or of an opening quote.
    """
    pieces = parse(config.layout() or "{text}")
    before = next((a for a, b in zip(pieces, pieces[1:], strict=False) if isinstance(b, Answer)), None)
    due = isinstance(before, Column) or (isinstance(before, Words) and re.search(r"[\w.,:;!?]$", before.text))
    if processor is None or not due or backbone.facts.answer not in ("last", "mask"):
        return
    for label, words in config.mapping.label_words().items():
        for word in words:
            own, spaced = (processor(w, add_special_tokens=False)["input_ids"] for w in (word, " " + word))
            glued = word[0].isalnum() and own != spaced and len(spaced) <= len(own)
            if glued and processor.unk_token_id not in spaced:
                end = before.text if isinstance(before, Words) else f"{{{before.name}}}"
                warnings.warn(
                    f"VerbalizerConfig.words[{label!r}]: {word!r} begins without a space, so that the base reads "
                    f"{end + word!r}. Fix: {' ' + word!r} if it is a word of its own.",
                    UserWarning,
                    stacklevel=4,
                )


def _check_stages(config: ReprogramConfig, backbone: Any) -> None:
    """The programs act where this base can be acted on, and a canvas is for a base that hears."""
    for i, options in enumerate(config.programs):
        accepts = method_class("program", options.type).accepts
        if accepts not in (*backbone.stages, "any"):
            base = type(backbone.base).__name__
            raise ConfigError(
                "ReprogramConfig.program" + (f"[{i}]" if len(config.programs) > 1 else ""),
                f"{options.type!r} changes {accepts}, and a {base} takes {', '.join(backbone.stages)}",
                "one of " + ", ".join(n for n in names("program") if _acts(n, backbone)),
            )
    if config.canvas is not None and backbone.modality == "text":
        raise ConfigError("ReprogramConfig.canvas", "given for a base that reads", "None: text has a template")


def _acts(program: str, backbone: Any) -> bool:
    return method_class("program", program).accepts in (*backbone.stages, "any")


def _check_pool(config: ReprogramConfig, backbone: Any) -> None:
    """Raise where a base that hears and writes nothing should be read at an answer."""
    reading = _reading(config, backbone)
    if reading.kind == "state" and reading.pool in ("answer", "head") and "rows" not in backbone.gives:
        raise ConfigError(
            f"{type(config.mapping).__name__}.pool",
            f"{reading.pool!r}, and a {type(backbone.base).__name__} has no decoder that answers",
            "'mean', 'statistics' or 'first'",
        )


def _canvas(canvas: CanvasConfig, backbone: Any) -> CanvasConfig:
    """The canvas with its length filled in, checked against what the base can hear."""
    facts = backbone.facts
    made = dataclasses.replace(canvas, samples=facts.canvas if canvas.samples is None else canvas.samples)
    if facts.longest is not None and made.samples > facts.longest:
        what = f"{made.samples}, and a {type(backbone.base).__name__} hears {facts.longest} samples"
        raise ConfigError("CanvasConfig.samples", what, f"at most {facts.longest}")
    if facts.trained not in (None, made.samples):
        warnings.warn(
            f"CanvasConfig.samples: {made.samples:,}, and this {type(backbone.base).__name__} was trained on clips of "
            f"{facts.trained:,} samples: it may know less of others. Fix: samples={facts.trained}, or leave it out.",
            UserWarning,
            stacklevel=4,
        )
    return made


def collator_of(model: Any, names: list[str] | None, disabled: bool) -> TextCollator | AudioCollator:
    """The collator of a model's modality."""
    facts, active = model.backbone.facts, model.active_name()
    if model.backbone.modality == "audio":
        layouts = {name: canvas_of(config) for name, config in model.peft_config.items()}
        return AudioCollator(facts.rate, layouts, active, names, tokenizer_of(model.processing_class))
    layouts = {name: layout_of(config) for name, config in model.peft_config.items()}
    return TextCollator(tokenizer_of(model.processing_class), layouts, active, facts, names, disabled)


@contextmanager
def as_artefact(where: Any) -> Iterator[None]:
    """What a loaded config lets go wrong is told as a fault of the artefact, with the place."""
    try:
        yield
    except (ConfigError, TypeError, KeyError, IndexError) as error:
        why = f"its config is not ours ({error})"
        raise ArtefactError(str(where), why, "a config written by save_pretrained") from error


def config_of(sealed: dict[str, Any], where: Any) -> ReprogramConfig:
    """The config of a loaded artefact: valid, and with everything filled in that needs no tokenizer again."""
    with as_artefact(where):
        try:
            config = ReprogramConfig.from_dict(sealed)
        except ValueError as error:  # PEFT's own checks
            raise error if isinstance(error, ConfigError) else ConfigError("config", str(error)) from error
        if config.embedding_rms is None:
            raise ConfigError("ReprogramConfig.embedding_rms", "None", "a positive number")
        config.mapping.resolve(None, config.labels)
    return config


def parts_for(config: ReprogramConfig, backbone: Any, tensors: dict[str, Tensor], where: str) -> tuple[Any, Any]:
    """Programs and mapping of a loaded config, with its tensors in them.

    Built on the meta device first: a config that says more than its tensors hold takes no memory to be refused.
    """
    with as_artefact(where), torch.device("meta"):
        shapes = parts_state(build_parts(config, backbone))
    artefact.match(tensors, shapes, where)
    with as_artefact(where):
        _check_place(config, backbone, None)
        parts = build_parts(config, backbone)
    artefact.fill(parts_state(parts), tensors, where)
    return parts


def start(model: Any, name: str, seed: int) -> None:
    """Parameters from the base's own statistics; maps that need no rows of a user are estimated; notes the seed."""
    generator = seeded(seed)
    program, mapping = model.base_model.sites()
    for part in program.entries[name]:
        part.initialise(model.backbone, generator, tokenizer_of(model.processing_class))
    mapping.entries[name].initialise(model.backbone, generator)
    if mapping.entries[name].needs_fit and mapping.entries[name].calibration_rows() is not None:
        active = model.active_name()
        model.set_adapter(name)
        model.fit_mapping()
        model.set_adapter(active)
    note_start(model.peft_config[name], seed)


def seeded(seed: Any, where: str = "seed") -> torch.Generator:
    """A generator at a seed."""
    try:
        return torch.Generator().manual_seed(operator.index(seed))
    except (TypeError, RuntimeError, ValueError):
        raise ConfigError(where, f"{seed!r}", "a whole number of at most 64 bits") from None


def note_start(config: ReprogramConfig, seed: int) -> None:
    """Write down what a program's start can be made from again (arithmetic takes it off): this config and a seed."""
    record = {key: value for key, value in (config.training or {}).items() if key != STARTED_AS}
    config.training = {**record, "seed": seed}


LOWEST_RATE = 1e-4
_WATCHED: WeakSet = WeakSet()


def watch_rates(model: Any) -> None:
    """Warn once, at the first optimiser step that moves a program of `model`, where the rate cannot teach it (U§1).

    A plain Trainer tells nobody its rate; the optimiser's own hook does.
    """
    _WATCHED.add(model)
    _hook_optimisers()


@cache
def _hook_optimisers() -> None:
    """One hook for all models: a hook that removed itself would change torch's table while torch walks through it."""
    register_optimizer_step_pre_hook(lambda optimizer, *_: _look(optimizer))


def _look(optimizer: torch.optim.Optimizer) -> None:
    for model in list(_WATCHED):
        ours = {id(p) for p in model.base_model.sites()[0].parameters() if p.requires_grad}
        group = next((g for g in optimizer.param_groups if any(id(p) in ours for p in g["params"])), None)
        if group is None:
            continue
        _WATCHED.discard(model)
        rate = float(group.get("initial_lr", group["lr"]))
        if rate <= LOWEST_RATE:
            warnings.warn(
                f"learning rate {rate:g} hardly moves a program: its vectors are in units of the base's embeddings. "
                f"model.learning_rate is {model.learning_rate:g}.",
                UserWarning,
                stacklevel=2,
            )
