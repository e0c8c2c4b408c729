"""Methods found by file name, options validated as data.

A method is one file in `programs/` or `mappings/` (or a module or class behind an entry point of the groups
`hf_reprogram.programs` and `hf_reprogram.mappings`): a dataclass of options that says its `type`, and the class that
names it as its `Options`. Nothing is imported before it is asked for, and nothing that a saved config names is ever
imported: a name is looked up in this table or refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import MethodType, ModuleType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError, UsageError, did_you_mean, first_line


KINDS = ("program", "mapping")


def option(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, choices: tuple | None = None
) -> Any:
    """A field of an options class: default, help text, and the range that is enforced (inclusive)."""
    facts = {"help": help, "low": low, "high": high, "choices": choices}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=facts)
    return dataclasses.field(default=default, metadata=facts)


def filled_in(f: dataclasses.Field) -> bool:
    """Whether a field is ours to fill in, not the user's to set: its help says so."""
    return not f.init or f.metadata.get("help", "").startswith("Filled in")


class Strict(type):
    """Dataclasses that refuse an unknown keyword with the nearest known one, where Python's TypeError names none."""

    @property
    def __signature__(cls) -> inspect.Signature:
        """The fields, for help() and editors, which would else see this metaclass's `*args`."""
        whole = inspect.signature(cls.__init__)
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    def __call__(cls, *args: Any, **given: Any) -> Any:
        known = [f.name for f in dataclasses.fields(cls) if f.init]
        for name in given:
            if name not in known:
                word = "option" if issubclass(cls, Options) else "field"
                raise ConfigError(
                    f"{cls.__name__}.{name}", f"no such {word}", fix=did_you_mean(name, cls.own_fields())
                )
        return super().__call__(*args, **given)

    def own_fields(cls) -> list[str]:
        """Fields for a user to set: neither what is filled in, nor those of a base class of another library."""
        ours = {name for c in cls.__mro__ if isinstance(c, Strict) for name in inspect.get_annotations(c)}
        return [f.name for f in dataclasses.fields(cls) if f.name in ours and not filled_in(f)]


@dataclasses.dataclass
class Options(metaclass=Strict):
    """Base of every options class. `type` is the method's name; it is saved, so that JSON finds its class again."""

    type: str = dataclasses.field(default="", init=False)
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raise a ConfigError for the first field outside its type or range."""
        hints = _hints(type(self))
        for f in dataclasses.fields(self):
            check_option(f, getattr(self, f.name), hints[f.name], f"{type(self).__name__}.{f.name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def described(cls: type) -> list[str]:
    """A line for each field that a user may set: its type, default and choices, and what it is for.

    Example:

        >>> described(options_class("program", "prompt"))[4]
        'bottleneck: int = 64  Hidden size of the residual network.'
    """
    told = []
    for f in dataclasses.fields(cls):
        if not filled_in(f):
            choices = f" [{', '.join(map(str, f.metadata['choices']))}]" if f.metadata["choices"] else ""
            default = "" if f.default is dataclasses.MISSING else f" = {f.default!r}"
            told.append(f"{f.name}: {f.type}{default}{choices}  {f.metadata['help']}")
    return told


def chosen(options: Any, f: dataclasses.Field) -> bool:
    """Whether the user chose a field of some options: not the default, and not filled in for him."""
    if filled_in(f):
        return False
    default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
    return getattr(options, f.name) != default


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def check_option(f: dataclasses.Field, value: Any, hint: Any, where: str) -> None:
    """Type, choices and range of one field.

    Args:
        f: the field, as `option` made it.
        value: what was given.
        hint: its annotation, of plain JSON types.
        where: how errors name the field.
    """
    wrong = misfit(value, hint, where)
    if wrong is not None:
        place, part, expected = wrong
        what = "None" if part is None else f"{part!r} is a {type(part).__name__}"
        raise ConfigError(place, what, expected.__name__ if type(expected) is type else str(expected))
    choices = f.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise ConfigError(where, f"{value!r} is not a choice", fix=did_you_mean(value, choices))
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = f.metadata.get("low"), f.metadata.get("high")
        finite = value == value and abs(value) != float("inf")
        if not finite or (low is not None and value < low) or (high is not None and value > high):
            span = f"a number from {'-inf' if low is None else low} to {'inf' if high is None else high}"
            raise ConfigError(where, f"{value!r} is out of range", span)


def misfit(value: Any, hint: Any, where: str) -> tuple[str, Any, Any] | None:
    """The first part of a plain value that does not fit its annotation: (place, part, expected), or None.

    Example:

        >>> misfit({"good": [" good", 7]}, dict[str, list[str]], "words")
        ("words['good'][1]", 7, <class 'str'>)
        >>> misfit(True, int | None, "length")
        ('length', True, int | None)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        found = [misfit(value, each, where) for each in inner]
        deepest = None if None in found else max(found, key=lambda f: len(f[0]))
        return deepest if deepest is None or deepest[0] != where else (where, value, hint)
    kind: Any = {float: (int, float), Any: object}.get(hint, origin or hint)
    # A bool is an int to Python, but `length=True` is a mistake.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
        return where, value, hint
    checks: list[Any] = []
    if origin is dict:
        for key, part in value.items():
            place = f"{where}[{key!r}]"
            checks += [misfit(key, inner[0], place), misfit(part, inner[1], place)]
    elif origin is list:
        checks = [misfit(part, inner[0], f"{where}[{i}]") for i, part in enumerate(value)]
    return next((c for c in checks if c is not None), None)


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
        expected = 'options, a name, or a dict with a "type"'
        raise ConfigError(where, f"{value!r}", expected, f"hf-reprogram methods lists the {kind}s")
    cls = options_class(kind, value["type"], where)
    return cls(**{str(k): v for k, v in value.items() if k != "type"})


@cache
def _builtin(kind: str) -> dict[str, str]:
    folder = Path(__file__).parent / f"{kind}s"
    found = (m.name for m in pkgutil.iter_modules([str(folder)]) if m.name != "base" and not m.name.startswith("_"))
    return {name: f"{__package__}.{kind}s.{name}" for name in found}


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
        found = _load(_foreign(kind)[name])
    else:
        fix = f"{did_you_mean(name, names(kind))}; hf-reprogram methods says what each {kind} does"
        raise ConfigError(where or kind, f"unknown {kind} {name!r}", fix=fix)
    cls = _method_in(found, name) if isinstance(found, ModuleType) else found
    if cls.Options.type != name or cls.Options.kind != kind:
        raise UsageError(
            f"{cls.__module__}.{cls.__name__}",
            f"registered as {kind} {name!r}, its options say {cls.Options.kind} {cls.Options.type!r}",
            "an entry point of the name and the group that the options say",
        )
    _document(cls.Options)
    return cls


def _document(options: type) -> None:
    """Let help() of an options class say of each option what `hf-reprogram methods` says."""
    own = inspect.cleandoc(options.__doc__ or "")
    if "Args:" not in own:
        about, example, shown = own.partition("Example:")
        told = "\n".join(["Args:", *(f"    {line}" for line in described(options))])
        options.__doc__ = f"{about.rstrip()}\n\n{told}\n\n{example}{shown}".rstrip()


def _load(entry: Any) -> Any:
    """What an entry point names. Whatever a stranger's module raises is told as ours, with whose it is."""
    try:
        return entry.load()
    except Exception as error:
        where = f"entry point {entry.name} = {entry.value} of {entry.group}"
        why = f"could not be loaded ({type(error).__name__}: {first_line(error)})"
        package = entry.dist.name if entry.dist else "its package"
        raise UsageError(where, why, "a module that can be imported", f"mend or uninstall {package}") from error


def _method_in(module: ModuleType, name: str) -> type:
    for _, cls in inspect.getmembers(module, inspect.isclass):
        if cls.__module__ == module.__name__ and getattr(getattr(cls, "Options", None), "type", None) == name:
            return cls
    raise UsageError(module.__name__, f"holds no class whose Options.type is {name!r}", "the class of the method")


def options_class(kind: str, name: str, where: str = "") -> type[Options]:
    """The options class of a method."""
    return method_class(kind, name, where).Options


def about(kind: str, name: str) -> str:
    """One line on a method: what its file says of it, else what its class does.

    Example:

        >>> about("mapping", "none")
        "no mapping. The base's own output and loss."
    """
    cls = method_class(kind, name)
    first = (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n")[0]
    if first.startswith(f"`{name}`: "):
        return first.removeprefix(f"`{name}`: ")
    return (cls.__doc__ or "").strip().partition("\n")[0]


class Later:
    """A method whose function, of the same name, stands in a room that may not be imported above: loaded when it is
    first asked for.

    Args:
        module: its room, below this package.
    """

    def __init__(self, module: str) -> None:
        self.module = module

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        function = getattr(import_module(f"{__package__}.{self.module}"), self.name)
        return function if instance is None else MethodType(function, instance)


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
