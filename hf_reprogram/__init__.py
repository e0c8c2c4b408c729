"""Teach a frozen model a new task: a program changes what goes in, a mapping reads what comes out.

Every name is loaded when it is first used: importing this package loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


__version__ = "0.1.0"

# public name -> module that holds it
_NAMES = {
    "AutoReprogramModel": "auto",
    "Batch": "batch",
    "Reading": "batch",
    "Readout": "batch",
    "ReprogramConfig": "config",
    "ReprogramError": "errors",
    "ConfigError": "errors",
    "TemplateError": "errors",
    "DataError": "errors",
    "ArtefactError": "errors",
    "BaseModelError": "errors",
    "UsageError": "errors",
    "ReprogramModel": "model",
    "get_reprogram_model": "model",
    "make_trainer": "training.trainer",
    "pipeline": "pipelines",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        import_module(f"{__name__}.tuner")  # PEFT learns our type with the first name that needs it
        value = getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
    elif name.endswith("Config"):
        from .registry import find_options

        value = find_options(name)
    else:
        value = None
    if value is None:
        from .errors import did_you_mean

        known = {*_NAMES, *_option_names()} if name.endswith("Config") else _NAMES
        raise AttributeError(f"module 'hf_reprogram' has no attribute {name!r}; {did_you_mean(name, known)}")
    globals()[name] = value
    return value


def _option_names() -> list[str]:
    from .registry import KINDS, names, options_class

    return [options_class(kind, name).__name__ for kind in KINDS for name in names(kind)]


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})
