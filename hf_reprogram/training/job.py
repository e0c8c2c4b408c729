"""One run from a recipe: what `hf-reprogram train` and `accelerate launch scripts/train.py` do."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from .. import presets
from ..artefact import CARD_FILE
from ..auto import AUTO_CLASSES, DTYPES
from ..backbone.kinds import modality_of
from ..config import ReprogramConfig
from ..errors import ConfigError, did_you_mean, first_line
from ..metrics import BEST
from ..model import ReprogramModel, get_reprogram_model
from ..registry import method_class, options_class
from ..template import columns, parse
from . import source
from .arguments import training_arguments
from .checkpoints import last_whole
from .estimation import estimate
from .recipe import BaseRecipe, Recipe
from .search import by_reason, search_mappings
from .trainer import ReprogramTrainer, make_trainer, parameter_groups


logger = logging.getLogger(__name__)

PACKAGES = ("hf-reprogram", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass(frozen=True)
class Result:
    """What a run leaves: the trained model, the record in its config, the artefact's folder, the card."""

    model: ReprogramModel
    record: dict[str, Any]
    output: Path
    card: Path


def run(recipe: Recipe) -> Result:
    """Train what a recipe says, evaluate it, save it with its card.

    Whatever can be refused is refused before the base is loaded. In a process group every rank calls it, with the
    same recipe; rank 0 alone writes and prints.

    Raises:
        ConfigError, DataError: a recipe, an argument or rows that cannot be meant.

    Warns:
        UserWarning: where training ended no better than the commonest label, or than the untrained program.
    """
    config = program_config(recipe)
    arguments = training_arguments(recipe, config.problem_type)
    wanted = wanted_columns(config, recipe.data.columns)
    labels = config.labels if config.problem_type == "single_label_classification" else None
    with arguments.main_process_first(desc="reading rows"):  # the others find what it has cached
        rows = source.load(recipe.data, wanted, labels, recipe.seed, alone=config.mapping.targets() is not None)
    writes = config.problem_type == "transcription"
    base, tokenizer = load_base(recipe.base, writes or bool(getattr(config.mapping, "words", None)))
    say = print if arguments.process_index == 0 else lambda *_: None
    trials = _search(base, config, tokenizer, recipe, rows, arguments.device, say) if recipe.mapping_search else {}
    model = get_reprogram_model(base, config, processing_class=tokenizer, seed=recipe.seed)
    if "max_grad_norm" not in recipe.training:
        arguments.max_grad_norm = model.backbone.rms()  # 1.0 in the base's own units (N30)

    streams = "a stream of" if recipe.data.streaming else f"{len(rows.train):,}"
    say(f"{recipe.name}: {streams} rows to learn from, {len(rows.validation):,} to validate on")
    if any(p.requires_grad for p in model.parameters()):
        trainer = make_trainer(model, arguments, rows.train, rows.validation, features=rows.names)
        record = _train(recipe, trainer, rows, say)
    else:
        trainer, record = None, _fit(model.to(arguments.device), arguments, rows)
    if any(program.accepts == "wave" for program in model.active_programs()):
        ratios = model.explain(rows.validation, features=rows.names)["ratios"]
        record["signal_to_program_dB"] = {row["label"]: round(row["signal to program dB"], 2) for row in ratios}
    baselines, metrics = record["baselines"], record["metrics"]
    for name, judged in (*baselines.items(), ("now", metrics)):
        say(f"{name:>9}  " + "  ".join(f"{k} {v:.4f}" for k, v in judged.items() if isinstance(v, float)))
    problem = verdict(metrics, baselines, *BEST[config.problem_type])
    if problem and arguments.process_index == 0:
        warnings.warn(problem, UserWarning, stacklevel=2)
    result = _save(recipe, model, {**_about(recipe, rows), **trials, **record}, trainer, arguments)
    say(f"saved in {result.output}; its card is {result.card}")
    return result


# Parts of a recipe ---------------------------------------------------------------------------------------------------


def program_config(recipe: Recipe) -> ReprogramConfig:
    """The ReprogramConfig of a recipe; labels that it does not name are `data.label_names`, or folders of sounds."""
    labels = recipe.data.label_names or source.folder_labels(recipe.data)
    if recipe.preset is not None:
        mapping = presets.preset(recipe.preset)["config"]["mapping"]["type"]
        classes = options_class("mapping", mapping).problem_type is None  # else its labels are letters
        own = {"labels": labels} if labels and classes and presets.takes_labels(recipe.preset) else {}
        return ReprogramConfig.from_preset(recipe.preset, **{**own, **recipe.options})
    config = ReprogramConfig.from_dict(recipe.config)
    if config.labels is None and labels and config.problem_type == "single_label_classification":
        config.labels = labels
        config.validate()
    return config


def wanted_columns(config: ReprogramConfig, given: Mapping[str, str]) -> list[str]:
    """Columns that a run takes from its data: the template's; `audio` for a base that hears, `series` where the recipe
    names that. A base hears where the config has a canvas, or a program of sound, or writes texts without a template.
    """
    stages = {method_class("program", p.type).accepts for p in config.programs}
    if config.problem_type == "transcription" and config.layout() is None and config.mapping.targets() is None:
        stages.add("wave")
    if config.canvas is None and not stages & {"wave", "features", "latent"}:
        return columns(parse(config.layout() or "{text}"))
    return ["series"] if "series" in given else ["audio"]


def load_base(base: BaseRecipe, words: bool = True) -> tuple[Any, Any]:
    """(model, processing class) of a recipe's base: the class that its own config names, or `auto_class`.

    Args:
        base: the recipe's section.
        words: whether the mapping has words, or writes texts. A base that hears has a tokenizer beside its extractor
            only if it writes.
    """
    import torch
    import transformers

    if base.dtype is not None and base.dtype not in DTYPES:
        raise ConfigError("base.dtype", f"{base.dtype!r}", fix=did_you_mean(base.dtype, DTYPES))
    if base.auto_class is not None and base.auto_class not in AUTO_CLASSES:
        raise ConfigError("base.auto_class", f"{base.auto_class!r}", fix=did_you_mean(base.auto_class, AUTO_CLASSES))
    if base.model.startswith(("/", ".")) and not os.path.isdir(base.model):
        raise ConfigError("base.model", f"{base.model} is no folder", "a folder of save_pretrained, or a Hub name")
    options: dict[str, Any] = {} if base.dtype is None else {"dtype": getattr(torch, base.dtype)}
    hub = {} if base.revision is None else {"revision": base.revision}
    try:
        sources = import_module("hf_reprogram.sources")  # models that transformers lacks
        own = transformers.AutoConfig.from_pretrained(base.model, **hub)
        named = own.architectures or ["none"]
        wanted = base.auto_class or named[0]
        cls = getattr(transformers, wanted, None) or getattr(sources, wanted, None)
        if cls is None:
            fix = f"base.auto_class: one of {', '.join(AUTO_CLASSES)}"
            raise ConfigError("base.model", f"{base.model!r} names the class {named[0]!r}", "one of transformers", fix)
        if base.layers is not None:
            most = getattr(own, "num_hidden_layers", None) or 0
            if not 1 <= base.layers <= most:
                expected = f"1 to {most}" if most else "null: its config does not count its layers"
                raise ConfigError("base.layers", f"{base.layers} of {base.model!r}", expected)
            options["num_hidden_layers"] = base.layers
        model = cls.from_pretrained(base.model, **options, **hub)
        kind = "AutoTokenizer"
        if modality_of(model) == "audio":
            kind = "AutoProcessor" if words else "AutoFeatureExtractor"
        return model, getattr(transformers, kind).from_pretrained(base.model, **hub)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        why = f"{base.model!r} could not be loaded ({first_line(error)})"
        raise ConfigError("base.model", why, "a folder of save_pretrained, or a Hub name") from error


# The run -------------------------------------------------------------------------------------------------------------


def _search(
    base: Any, config: ReprogramConfig, processor: Any, recipe: Recipe, rows: Any, device: Any, say: Any
) -> dict[str, Any]:
    """Give the config the best mapping; the record of what was tried."""
    base.to(device)
    found = search_mappings(base, config, rows.train, processor, features=rows.names, seed=recipe.seed)
    say("\n".join([*found.table(), f"taken: {found.best.name}"]))
    for line in by_reason(found.left_out):
        logger.info("not tried: %s", line)
    # Ranks may see other last digits: all take what the first one found.
    (config.mapping,) = broadcast_object_list([found.best.options])
    return {"mapping_search": {t.name: {"accuracy": t.accuracy, "error": t.error} for t in found.trials}}


def _train(recipe: Recipe, trainer: ReprogramTrainer, rows: source.Source, say: Any) -> dict[str, Any]:
    """Train by gradients; the record of it."""
    model, arguments = trainer.model, trainer.args
    rates = {g["name"]: g["lr"] for g in parameter_groups(model, arguments)}
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"{numbers:,} numbers learn: " + ", ".join(f"{name} at {rate:g}" for name, rate in rates.items()))
    if not recipe.data.streaming:
        estimate(model, rows.train, rows.names)  # before it is judged for the first time
    untrained = _judge(model, arguments, rows)

    start = None if recipe.resume == "never" else last_whole(Path(arguments.output_dir))
    if start is not None:
        say(f"going on from {start}")
    trainer.train(resume_from_checkpoint=None if start is None else str(start))
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    size = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    return {
        "steps": trainer.state.global_step,
        "epochs": round(trainer.state.epoch or 0.0, 3),
        "batch_size": size,
        "learning_rates": rates,
        "loss": {"first": round(losses[0], 6), "last": round(losses[-1], 6)} if losses else {},
        "metrics": _without_majority(_judge(model, arguments, rows)),
        "baselines": {
            **_majority(untrained),
            "untrained": {k: untrained[k] for k in (BEST[model.problem_type()][0], "loss")},
        },
    }


def _fit(model: ReprogramModel, arguments: Any, rows: source.Source) -> dict[str, Any]:
    """Estimate a mapping where nothing trains by gradients; the record of it."""
    estimate(model, rows.train, rows.names)
    judged = _judge(model, arguments, rows)
    return {"steps": 0, "metrics": _without_majority(judged), "baselines": _majority(judged)}


def _judge(model: ReprogramModel, arguments: Any, rows: source.Source) -> dict[str, Any]:
    """Metrics on the validation rows, the same on every rank."""
    judged = model.evaluate(rows.validation, batch_size=arguments.per_device_eval_batch_size, features=rows.names)
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in judged.items()}


def _without_majority(judged: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in judged.items() if k != "majority"} | {"split": "validation"}


def _majority(judged: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Accuracy of always saying the commonest label of the validation rows, where there are labels to say."""
    return {"majority": {"accuracy": judged["majority"]}} if "majority" in judged else {}


def verdict(
    metrics: dict[str, Any], baselines: dict[str, dict[str, float]], best: str = "accuracy", greater: bool = True
) -> str | None:
    """What is wrong with a result that is no better than doing nothing; None where it is better (U§1).

    Args:
        metrics: of the trained program.
        baselines: of what it must be better than.
        best, greater: the metric that counts, and whether more of it is better.
    """
    found, own = [], metrics[best]
    for name, other in baselines.items():
        gain = (own - other[best]) * (1 if greater else -1)
        # As often right and surer of it: something was learned.
        surer = gain == 0 and metrics.get("loss", 0.0) < other.get("loss", 0.0)
        if gain <= 0 and not surer:
            found.append(f"{name} ({other[best]:.4f})")
    if not found:
        return None
    return (
        f"{best} {own:.4f} is no better than {' and '.join(found)}: nothing useful was learned. Try another "
        "rate (the parts' own where training.learning_rate is left out), more steps, another template or other words; "
        "for sound, another canvas or program."
    )


# What stays ----------------------------------------------------------------------------------------------------------


def _about(recipe: Recipe, rows: source.Source) -> dict[str, Any]:
    """What of the recipe goes into the record: names of files without their folders, nothing of this machine."""
    data = recipe.data
    validation = data.validation or (data.train if data.validation_split else None)
    share = f"{data.validation_share:g} of train, by label"
    return {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "data": {
            "train": _shown(data.train, data.split),
            **({} if data.streaming else {"rows": len(rows.train)}),
            "validation": _shown(validation, data.validation_split or "validation") if validation else share,
            "validation_rows": len(rows.validation),
        },
        "versions": {name: version(name) for name in PACKAGES},
    }


def _shown(given: str | list[str], split: str) -> str:
    files = [given] if isinstance(given, str) else given
    is_hub = len(files) == 1 and not files[0].startswith(("/", "."))
    return f"{files[0]} [{split}]" if is_hub else ", ".join(Path(f).name for f in files)


def _save(recipe: Recipe, model: ReprogramModel, record: dict[str, Any], trainer: Any, arguments: Any) -> Result:
    """The artefact with its record, and its card once more in the folder of cards."""
    model.peft_config[model.active_name()].training = record
    whole = None
    if trainer is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # sharded: every rank gives its part
    output, card = Path(recipe.output), Path(recipe.cards) / f"{recipe.name}.md"
    model.save_pretrained(output, state_dict=whole, is_main_process=arguments.process_index == 0)
    if arguments.process_index == 0:
        card.parent.mkdir(parents=True, exist_ok=True)
        text = (output / CARD_FILE).read_text(encoding="utf-8")
        card.write_text(text.replace(os.path.expanduser("~") + "/", "~/"), encoding="utf-8")
    return Result(model, record, output, card)
