"""The contract tests of programs and mappings, for us and for others.

A third party runs them on its own method:

    from hf_reprogram.testing import check_program
    check_program("my_program")

Each check is a plain function of a config and a family; a failure names the method, the family and the number seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from ..backbone import Backbone, backbone_of
from ..config import ReprogramConfig
from ..errors import ConfigError, UsageError, did_you_mean
from ..registry import method_class
from ..wrap import resolve
from .audio import AUDIO_FAMILIES, AUDIO_ROWS, CANVAS
from .checks import CHECKS
from .helpers import LABELS, ROWS, build, flags, logits_of, state_hash
from .models import FAMILIES, LANGUAGE_MODELS, SLOW_FAMILIES, reads, tiny


__all__ = [
    "AUDIO_FAMILIES", "AUDIO_ROWS", "CHECKS", "FAMILIES",
    "LABELS", "LANGUAGE_MODELS", "ROWS", "SLOW_FAMILIES", "build", "check_mapping", "check_program", "config_of",
    "flags", "logits_of", "mapping_config", "pair_config", "program_config", "refused", "state_hash", "suits", "tiny",
]  # fmt: skip

_PROMPT = {"type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}"}
# By what a base gives: a mapping that every program can be checked with.
_MAPPINGS: dict[str, dict[str, Any]] = {
    "rows": {"type": "verbalizer", "words": {"negative": [" bad", " poor"], "positive": [" good"]}},
    "classes": {"type": "linear", "on": "classes", "solver": "gradient"},
    "state": {"type": "linear", "on": "state", "pool": "mean", "solver": "gradient"},
}


def program_config(name: str, family: str = "llama") -> ReprogramConfig:
    """The config by which a program is checked: its own example, with a mapping that the family can be read by."""
    mapping = next(m for kind, m in _MAPPINGS.items() if kind in _gives(family))
    return ReprogramConfig(
        program=_placed({"type": name, **method_class("program", name).example}, family),
        mapping=mapping,
        labels=LABELS,
        canvas=_canvas(family),
    )


def mapping_config(name: str, family: str = "llama") -> ReprogramConfig:
    """The config by which a mapping is checked: its own example, with a prompt."""
    options = method_class("mapping", name).Options(**method_class("mapping", name).example)
    # Who gives out the base's own output has no labels of the user's, and who writes texts names its own.
    labels = None if "base" in options.reads() or options.problem_type else LABELS
    if options.problem_type == "regression":
        labels = ["value"]
    program = _placed(_PROMPT, family) if reads(family) else "none"
    return ReprogramConfig(program=program, mapping=options, labels=labels, canvas=_canvas(family))


def pair_config(program: str, mapping: str, family: str) -> ReprogramConfig:
    """The config by which a program and a mapping are checked together: both by their own examples."""
    reads = mapping_config(mapping, family)
    return ReprogramConfig(
        program=program_config(program, family).program, mapping=reads.mapping, labels=reads.labels,
        canvas=_canvas(family),
    )  # fmt: skip


def config_of(kind: str, name: str, family: str) -> ReprogramConfig:
    """The config by which a method is checked on a family."""
    return (program_config if kind == "program" else mapping_config)(name, family)


def suits(config: ReprogramConfig, family: str) -> bool:
    """Whether a family's base gives anything that the config's mapping reads, and can be acted on by its programs."""
    accepted = {method_class("program", p.type).accepts for p in config.programs}
    if not (_gives(family) & set(config.mapping.reads()) and accepted <= {*_backbone(family).stages, "any"}):
        return False
    if family in AUDIO_FAMILIES:  # some programs act only on some of the bases that hear
        try:
            resolve(config, *_tiny(family))
        except ConfigError:
            return False
    return True


@cache
def _tiny(family: str) -> tuple[Backbone, Any]:
    base, processor = tiny(family)
    return backbone_of(base, processor), processor


def _backbone(family: str) -> Backbone:
    return _tiny(family)[0]


def _gives(family: str) -> frozenset[str]:
    return _backbone(family).gives


def _canvas(family: str) -> dict[str, int] | None:
    """A short canvas, for a base that hears and has none of its own."""
    return {"samples": CANVAS} if family in AUDIO_FAMILIES and _backbone(family).facts.longest is None else None


def _placed(program: dict[str, Any], family: str) -> dict[str, Any]:
    """A program's options for a family: without an answer slot where its bases have none to answer at."""
    if not reads(family) or "rows" in _gives(family) or "template" not in program:
        return program
    return {**program, "template": program["template"].replace("{answer}", "")}


def refused(config: ReprogramConfig, family: str) -> None:
    """A base that gives nothing that the mapping reads is refused in our words, and left as it was."""
    base, tokenizer = tiny(family)
    found = flags(base)
    try:
        build(config, family)
    except ConfigError as error:
        assert type(base).__name__ in str(error), f"the error does not name the base: {error}"
        assert flags(base) == found, "the refused base was changed"
    else:
        raise AssertionError("a mapping that cannot be read was not refused")


def check_program(name: str, families: Iterable[str] = (*FAMILIES, *AUDIO_FAMILIES)) -> None:
    """Run every check on a registered program.

    Args:
        name: of the program.
        families: of tiny bases; all by default but `SLOW_FAMILIES`, which are much like the others.

    Raises:
        AssertionError: names the program, the family, the check, and the number seen.
    """
    _check("program", name, families)


def check_mapping(name: str, families: Iterable[str] = (*FAMILIES, *AUDIO_FAMILIES)) -> None:
    """Run every check on a registered mapping, on families that give what it reads; the others must refuse it."""
    _check("mapping", name, families)


def _check(kind: str, name: str, families: Iterable[str]) -> None:
    excused = method_class(kind, name).xfail
    for family in [families] if isinstance(families, str) else families:
        if not (reads(family) or family in AUDIO_FAMILIES):
            known = (*FAMILIES, *AUDIO_FAMILIES, *SLOW_FAMILIES)
            raise UsageError("families", f"{family!r}", None, did_you_mean(family, known))
        config = config_of(kind, name, family)
        checks = CHECKS if suits(config, family) else {"refused": refused}
        for check, function in checks.items():
            if check in excused:
                continue
            try:
                function(config, family)
            except AssertionError as error:
                raise AssertionError(f"{kind} {name} on {family}, {check}: {error}") from error
