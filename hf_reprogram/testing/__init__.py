"""The contract tests of programs and mappings, for us and for others.

A third party runs them on its own method:

    from hf_reprogram.testing import check_program
    check_program("my_program")

Each check is a plain function of a config and a family; a failure names the method, the family and the number seen.
"""

from __future__ import annotations

from ..config import ReprogramConfig
from ..registry import method_class
from .checks import CHECKS, VERBALIZER
from .helpers import LABELS, ROWS, build, flags, logits_of, state_hash
from .models import FAMILIES, tiny


__all__ = [
    "CHECKS", "FAMILIES", "LABELS", "ROWS", "build", "check_mapping", "check_program", "flags", "logits_of",
    "mapping_config", "program_config", "state_hash", "tiny",
]  # fmt: skip

_PROMPT = {"type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}"}


def program_config(name: str) -> ReprogramConfig:
    """The config by which a program is checked: its own example, with a verbalizer."""
    options = method_class("program", name).Options(**method_class("program", name).example)
    return ReprogramConfig(program=options, mapping=VERBALIZER)


def mapping_config(name: str) -> ReprogramConfig:
    """The config by which a mapping is checked: its own example, with a prompt."""
    options = method_class("mapping", name).Options(**method_class("mapping", name).example)
    return ReprogramConfig(program=_PROMPT, mapping=options, labels=LABELS)


def check_program(name: str) -> None:
    """Run every check on a registered program, on every family.

    Raises:
        AssertionError: names the program, the family, the check, and the number seen.
    """
    _check("program", name, program_config(name))


def check_mapping(name: str) -> None:
    """Run every check on a registered mapping, on every family."""
    _check("mapping", name, mapping_config(name))


def _check(kind: str, name: str, config: ReprogramConfig) -> None:
    excused = method_class(kind, name).xfail
    for family in FAMILIES:
        for check, function in CHECKS.items():
            if check in excused:
                continue
            try:
                function(config, family)
            except AssertionError as error:
                raise AssertionError(f"{kind} {name} on {family}, {check}: {error}") from error
