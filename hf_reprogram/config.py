"""ReprogramConfig: what is learned on which base, as data. Plain JSON both ways."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from peft import PeftConfig

from . import presets
from .canvas import as_canvas
from .errors import ConfigError, did_you_mean
from .registry import Options, Strict, build, method_class
from .symbols import Symbols


PEFT_TYPE = "REPROGRAM"
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression", "transcription")
FORMAT_VERSION = 1
STARTED_AS = "started_as"  # in `training`: programs and mapping as they were started, where they are folded since
# What the backbone makes of one stage for the next: embeddings of tokens, features of a wave; all of it ends inside.
BRIDGES = {("tokens", "embeds"), ("wave", "features"), ("wave", "latent"), ("features", "latent")}


@dataclass
class ReprogramConfig(PeftConfig, metaclass=Strict):
    """Configuration of one program and its mapping, saved as `adapter_config.json`.

    Args:
        program: what changes the input: options (`PromptConfig(...)`), a dict `{"type": "prompt", ...}`, a name, or a
            list of these, applied in order. None is the program `none`.
        mapping: what reads the output as target labels, in the same forms. None is the mapping `none`.
        labels: names of the target labels; the order is the id. None takes them from the mapping's words.
        problem_type: `single_label_classification`, `multi_label_classification` (a row has any number of labels) or
            `regression` (labels name the numbers that come out). A mapping that writes texts makes it `transcription`.
        class_weight: factor of the loss by label. Of maps that are fitted in closed form only `linear` heeds it too
            (ridge and logistic, one label to a row); a program that trains under another one heeds it.
        canvas: of models that hear: how a clip or a series is laid out, `CanvasConfig(...)` or a dict of its options.
            None is the base's own fixed length, or one second.
        base_auto_class: filled in: the `transformers` auto class that loads the base.
        fingerprint: filled in: identity of base and processor.
        embedding_rms: filled in: root mean square of the base's embedding table, the unit of all program vectors.
        checksum: filled in at save.
        training: a record of the run (seed, data, steps, metrics); free JSON.

    Raises:
        ConfigError: unknown method or option, value out of range, programs that do not fit together.

    Example:

        >>> config = ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text} It was{answer}"},
        ...                          mapping={"type": "verbalizer", "words": {"bad": [" bad"], "good": [" good"]}})
        >>> config.labels, config.program.template
        (['bad', 'good'], '{prompt:2} {text} It was{answer}')
        >>> ReprogramConfig.from_dict(config.to_dict()) == config
        True
    """

    program: Any = field(default=None, metadata={"help": "Program or programs."})
    mapping: Any = field(default=None, metadata={"help": "Mapping."})
    labels: list[str] | None = field(default=None, metadata={"help": "Target labels, order = id."})
    problem_type: str = field(default="single_label_classification", metadata={"help": "Kind of target."})
    class_weight: dict[str, float] | None = field(default=None, metadata={"help": "Factor of the loss by label."})
    canvas: Any = field(default=None, metadata={"help": "How sound is laid out."})
    base_auto_class: str | None = field(default=None, metadata={"help": "Filled in: auto class of the base."})
    fingerprint: dict | None = field(default=None, metadata={"help": "Filled in: identity of base and processor."})
    embedding_rms: float | None = field(default=None, metadata={"help": "Filled in: unit of the program's vectors."})
    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "Filled in: version of the artefact."})
    checksum: dict | None = field(default=None, metadata={"help": "Filled in: checksums of weights and config."})
    training: dict | None = field(default=None, metadata={"help": "Filled in: record of the training run."})
    # PEFT reads this attribute unconditionally; it must stay None, or PEFT saves whole embedding tables (E§0 4, 5).
    target_modules: None = field(default=None, metadata={"help": "Filled in: not used."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if isinstance(self.program, list | tuple):
            parts = [build("program", p, f"ReprogramConfig.program[{i}]") for i, p in enumerate(self.program)]
            self.program = parts[0] if len(parts) == 1 else parts
        else:
            self.program = build(
                "program", "none" if self.program is None else self.program, "ReprogramConfig.program"
            )
        self.mapping = build("mapping", "none" if self.mapping is None else self.mapping, "ReprogramConfig.mapping")
        self.canvas = as_canvas(self.canvas, "ReprogramConfig.canvas")
        self.validate()

    @classmethod
    def from_preset(
        cls, name: str, labels: Sequence[str] | Mapping[str, list[str]] | None = None, **changes: Any
    ) -> ReprogramConfig:
        """The config of a paper, with your labels and what you would have otherwise.

        Args:
            name: one of `hf_reprogram.presets.names()`: `warp`, `prompt_tuning`, `voice2series`, ...
            labels: names of the target labels, or their words: `{"negative": [" terrible"], ...}`. A name alone is its
                own word, after a space.
            changes: fields of the config, or options of its program or mapping: `template="..."`.

        Raises:
            ConfigError: unknown preset or option; no labels.

        Example:

            >>> config = ReprogramConfig.from_preset("warp", labels=["bad", "good"], template="{p:2} {text}{answer}")
            >>> config.program.init, config.mapping.words
            ('mask', {'bad': [' bad'], 'good': [' good']})
        """
        return cls.from_dict(presets.config_values(name, labels, changes, cls.own_fields()))

    @property
    def programs(self) -> list[Options]:
        """The programs as a list, in the order in which they act."""
        return self.program if isinstance(self.program, list) else [self.program]

    def validate(self) -> None:
        """Raise a ConfigError where fields do not fit together."""
        if self.target_modules is not None:
            raise ConfigError(
                "ReprogramConfig.target_modules", f"{self.target_modules!r}", "None: programs sit outside the base"
            )
        if self.problem_type not in PROBLEM_TYPES:
            fix = did_you_mean(self.problem_type, PROBLEM_TYPES)
            raise ConfigError("ReprogramConfig.problem_type", f"{self.problem_type!r}", fix=fix)
        self._check_problem()
        if type(self.format_version) is not int or self.format_version != FORMAT_VERSION:
            raise ConfigError(
                "ReprogramConfig.format_version",
                f"{self.format_version!r}",
                f"{FORMAT_VERSION}",
                "update hf-reprogram",
            )
        for name, types in (("fingerprint", dict), ("checksum", dict), ("training", dict), ("base_auto_class", str)):
            if not isinstance(getattr(self, name), types | None):
                raise ConfigError(f"ReprogramConfig.{name}", f"{getattr(self, name)!r}", f"a {types.__name__} or None")
        rms = self.embedding_rms
        if rms is not None and not (isinstance(rms, float) and math.isfinite(rms) and rms > 0):
            raise ConfigError("ReprogramConfig.embedding_rms", f"{rms!r}", "a positive number")
        self._check_labels()
        self._check_weights()
        self._check_chain()

    def _check_problem(self) -> None:
        """A mapping that writes texts says so itself; no other can have texts as targets."""
        own, given, name = self.mapping.problem_type, self.problem_type, self.mapping.type
        if own is not None and given in (own, PROBLEM_TYPES[0]):
            self.problem_type = own
        elif own != given and "transcription" in (own, given):
            what, fix = f"{given!r} with the mapping {name!r}", "a mapping that writes texts: ctc, transcript"
            raise ConfigError("ReprogramConfig.problem_type", what, own or "the kind of its targets", fix)

    def _check_labels(self) -> None:
        where = "ReprogramConfig.labels"
        named = self.mapping.labels()
        if self.labels is None:
            self.labels = named
        if self.labels is None:
            return
        if not isinstance(self.labels, list | tuple) or not all(isinstance(x, str) and x for x in self.labels):
            raise ConfigError(where, f"{self.labels!r}", "a list of label names (strings)")
        self.labels = list(self.labels)
        if len(set(self.labels)) != len(self.labels):
            raise ConfigError(where, f"a name stands twice in {self.labels!r}", "different names")
        if named is not None and set(named) != set(self.labels):
            odd = sorted(set(named) ^ set(self.labels))
            raise ConfigError(
                where,
                f"{self.labels!r} and the mapping's own {named!r} disagree on {odd!r}",
                "the same names",
                did_you_mean(odd[0], (set(named) | set(self.labels)) - {odd[0]})
                if set(named) & set(self.labels)
                else "leave labels out: the mapping has its own",
            )
        least = 2 if self.problem_type == "single_label_classification" else 1
        if len(self.labels) < least:
            raise ConfigError(where, f"{len(self.labels)} label", "at least two" if least == 2 else "at least one")

    def _check_weights(self) -> None:
        weights, where = self.class_weight, "ReprogramConfig.class_weight"
        if weights is None:
            return
        if self.problem_type == "transcription":
            raise ConfigError(where, f"{weights!r} for texts", "None")
        if not isinstance(weights, dict) or self.labels is None or set(weights) != set(self.labels):
            raise ConfigError(where, f"{weights!r}", f"a number for each of the labels {self.labels}")
        for label, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
                raise ConfigError(f"{where}[{label!r}]", f"{weight!r}", "a positive number")

    def _check_chain(self) -> None:
        """One program per stage, and what one gives is what the next accepts (N21)."""
        programs = self.programs
        if not programs:
            raise ConfigError("ReprogramConfig.program", "an empty list", 'a program, or "none"')
        for what, found in (
            ("lay out the row", [p.type for p in programs if p.layout() is not None]),
            ("write rows in symbols", [p.type for p in programs if p.target_symbols() is not None]),
        ):
            if len(found) > 1:
                raise ConfigError("ReprogramConfig.program", f"{len(found)} programs {what}: {found}", "one of them")
        stages = [(method_class("program", p.type).accepts, method_class("program", p.type).gives) for p in programs]
        for i, ((_, gives), (accepts, _)) in enumerate(zip(stages, stages[1:], strict=False)):
            if gives != accepts and (gives, accepts) not in BRIDGES:
                swapped = stages[i + 1][1], stages[i][0]
                turn = swapped[0] == swapped[1] or swapped in BRIDGES
                raise ConfigError(
                    f"ReprogramConfig.program[{i + 1}]",
                    f"{programs[i + 1].type!r} accepts {accepts}, {programs[i].type!r} before it gives {gives}",
                    f"a program that accepts {gives}",
                    f"put {programs[i + 1].type!r} before {programs[i].type!r}" if turn else None,
                )
        if len(set(stages)) != len(stages):
            raise ConfigError(
                "ReprogramConfig.program",
                f"two programs of one stage: {[p.type for p in programs]}",
                "at most one per stage",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; `from_dict` gives an equal config back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ReprogramConfig:
        """A config from plain JSON values. Unknown keys raise (PEFT would drop them with a warning: N6)."""
        return cls(**copy.deepcopy(values))

    @classmethod
    def from_peft_type(cls, **kwargs: Any) -> ReprogramConfig:
        """PEFT's constructor from JSON, strict."""
        return cls.from_dict(kwargs)

    def layout(self) -> str | None:
        """The template of the program that lays out the row, or None."""
        return next((t for p in self.programs if (t := p.layout()) is not None), None)

    def target_symbols(self) -> Symbols | None:
        """The symbols of the program that has its rows written in some, or None."""
        return next((s for p in self.programs if (s := p.target_symbols()) is not None), None)


# PEFT has to know the type of a config (E§0 3). By name, since the joint with PEFT stands below this room.
import_module(f"{__package__}.tuner")
