"""Methods found by file name, options validated as data.

A method is one file in `programs/` or `mappings/` (or a module or class behind an entry point of the groups
`hf_reprogram.programs` and `hf_reprogram.mappings`): a dataclass of options that says its `type`, and the class that
names it as its `Options`. Nothing is imported before it is asked for, and nothing that a saved config names is ever
imported: a name is looked up in this table or refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from .errors import ConfigError, UsageError, did_you_mean


KINDS = ("program", "mapping")


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple | None = None
) -> Any:
    """A field of an options class: default, help text, and the range that is enforced (inclusive)."""
    facts = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


@dataclasses.dataclass
class Options:
    """Base of every options class. `type` is the method's name; it is saved, so that JSON finds its class again."""

    type: str = dataclasses.field(default="", init=False)
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise a ConfigError for the first field outside its type or range."""
        for f in dataclasses.fields(self):
            check_option(f, getattr(self, f.name), f"{type(self).__name__}.{f.name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


_PLAIN = {"int": int, "float": (int, float), "bool": bool, "str": str, "list": list, "dict": dict}


def check_option(f: dataclasses.Field, value: Any, where: str) -> None:
    """Type (plain JSON types only), choices and range of one field."""
    wanted = str(f.type).replace(" ", "").split("|")
    names = [w.partition("[")[0] for w in wanted]
    if value is None:
        if "None" not in names:
            raise ConfigError(where, "None", " or ".join(wanted))
        return
    known = [n for n in names if n in _PLAIN]
    # A bool is an int to Python, but `length=True` is a mistake.
    matches = [n for n in known if isinstance(value, _PLAIN[n]) and (n == "bool" or not isinstance(value, bool))]
    if known and not matches:
        raise ConfigError(where, f"{value!r} is a {type(value).__name__}", " or ".join(wanted))
    choices = f.metadata.get("choices")
    if choices and isinstance(value, str) and value not in choices:
        raise ConfigError(where, f"{value!r} is not a choice", fix=did_you_mean(value, choices))
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high)
        if not inside:
            span = f"a number from {'-inf' if low is None else low} to {'inf' if high is None else high}"
            raise ConfigError(where, f"{value!r} is out of range", span)


def build(kind: str, value: Any, where: str) -> Options:
    """Options from what a user may write: an options object, a dict `{"type": ..., ...}`, or a bare name."""
    if isinstance(value, Options):
        if value.kind != kind:
            raise ConfigError(
                where, f"{type(value).__name__} is a {value.kind}", f"a {kind}", did_you_mean(value.type, names(kind))
            )
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise ConfigError(
            where, f"{value!r}", 'options, a name, or a dict with a "type"', f"known {kind}s: {', '.join(names(kind))}"
        )
    cls = options_class(kind, value["type"], where)
    given = {k: v for k, v in value.items() if k != "type"}
    allowed = [f.name for f in dataclasses.fields(cls) if f.name != "type"]
    for key in given:
        if key not in allowed:
            raise ConfigError(f"{where}.{key}", f"{cls.__name__} has no such option", fix=did_you_mean(key, allowed))
    return cls(**given)


@cache
def _builtin(kind: str) -> dict[str, str]:
    folder = Path(__file__).parent / f"{kind}s"
    return {m.name: f"{__package__}.{kind}s.{m.name}" for m in pkgutil.iter_modules([str(folder)]) if m.name != "base"}


def _foreign(kind: str) -> dict[str, Any]:
    return {e.name: e for e in entry_points(group=f"hf_reprogram.{kind}s")}


def names(kind: str) -> list[str]:
    """Every known method of a kind ("program" or "mapping"), sorted."""
    return sorted({*_builtin(kind), *_foreign(kind)})


@cache
def method_class(kind: str, name: str, where: str = "") -> type:
    """The Program or Mapping class registered under `name`."""
    if name in _builtin(kind):
        found: Any = import_module(_builtin(kind)[name])
    elif name in _foreign(kind):
        found = _foreign(kind)[name].load()
    else:
        raise ConfigError(where or kind, f"unknown {kind} {name!r}", fix=did_you_mean(name, names(kind)))
    cls = _method_in(found, name) if isinstance(found, ModuleType) else found
    if cls.Options.type != name or cls.Options.kind != kind:
        raise UsageError(
            f"{cls.__module__}.{cls.__name__}",
            f"registered as {kind} {name!r}, its options say {cls.Options.kind} {cls.Options.type!r}",
        )
    return cls


def _method_in(module: ModuleType, name: str) -> type:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__ and getattr(getattr(cls, "Options", None), "type", None) == name:
            return cls
    raise UsageError(module.__name__, f"holds no class whose Options.type is {name!r}")


def options_class(kind: str, name: str, where: str = "") -> type[Options]:
    """The options class of a method."""
    return method_class(kind, name, where).Options


def find_options(class_name: str) -> type[Options] | None:
    """The options class with this class name (`"PromptConfig"`), or None. Files are matched by name first, so that
    asking for one class imports one file."""
    stem = class_name.removesuffix("Config").lower()
    for kind in KINDS:
        for name in sorted(names(kind), key=lambda n: n.replace("_", "") != stem):
            cls = options_class(kind, name)
            if cls.__name__ == class_name:
                return cls
    return None
