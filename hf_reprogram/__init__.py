"""Teach a frozen model a new task: a program changes what goes in, a mapping reads what comes out.

Every name is loaded when it is first used: importing this package loads no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


__version__ = "0.1.0"

# public name -> module that holds it
_NAMES = {
    "AutoReprogramModel": "auto",
    "Batch": "batch",
    "CanvasConfig": "canvas",
    "Mapping": "mappings.base",
    "MappingOptions": "mappings.base",
    "Program": "programs.base",
    "ProgramOptions": "programs.base",
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
    "BudgetError": "errors",
    "ReprogramModel": "model",
    "get_reprogram_model": "model",
    "load_metric": "tools.metrics",
    "make_trainer": "training.trainer",
    "compute_metrics": "tools.metrics",
    "diversity": "metrics",
    "Endpoint": "sources.endpoint",
    "FollowBound": "tools.follow",
    "fit_blackbox": "tools.blackbox",
    "fit_by_score": "tools.score_function",
    "labels_by_name": "tools.semantic",
    "option": "registry",
    "pipeline": "pipelines",
    "plot_bound": "tools.diagrams",
    "plot_mapping": "tools.figures",
    "plot_program": "tools.figures",
    "plot_reliability": "tools.diagrams",
    "plot_selection": "tools.diagrams",
    "remote_audio": "sources.remote",
    "remote_text": "sources.remote",
    "search_mappings": "training.search",
    "select": "tools.select",
    "target_symbols": "symbols",
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
    """What a user may want, options of methods by their files' names: nothing is loaded for it."""
    from .registry import KINDS, names

    methods = [name.title().replace("_", "") for kind in KINDS for name in names(kind)]
    return sorted({*_NAMES, *(f"{name}Config" for name in methods), *(n for n in globals() if n.startswith("__"))})


class _WhenPeftComes:
    """A finder that tells PEFT of our type once PEFT is imported: its own loaders fail on one unknown (E§0 3)."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """PEFT's own spec, with a word after its import; nothing for any other module."""
        if name != "peft":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not cls)
        spec = next((spec for spec in others if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                if cls in sys.meta_path:
                    sys.meta_path.remove(cls)
                if f"{__name__}.config" not in sys.modules:  # else PEFT comes with our own modules
                    import_module(f"{__name__}.tuner")

            spec.loader.exec_module = exec_module
        return spec


if "peft" in sys.modules:
    import_module(f"{__name__}.tuner")
else:
    sys.meta_path.insert(0, _WhenPeftComes)
