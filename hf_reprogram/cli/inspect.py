"""Say what a saved program is: what it does and reads, what it weighs, how it was trained, what it was made for.

The nearest words of its vectors are measured in the base's own vocabulary, so that they need the base: it is taken
from where it was, from the cache, or from --base, which may download it.

--figure FILE draws the mapping, which source labels count for which label; with --audio SOUND what the program does to
that sound. It needs the base too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from ..errors import ReprogramError, UsageError, first_line
from ._page import page
from ._program import add_program, quiet


HELP = "say what a saved program is"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The program, its base, and the form."""
    add_program(parser)
    parser.add_argument("--json", action="store_true", help="the same facts as JSON")
    parser.add_argument("--figure", metavar="FILE", help="draw the mapping (.png, .svg, .pdf); needs matplotlib")
    parser.add_argument("--audio", metavar="SOUND", help="draw what the program does to this sound instead")


def run(options: argparse.Namespace) -> int:
    """Print the page."""
    from .. import artefact
    from ..hub import fetch
    from ..wrap import config_of

    if options.audio and not options.figure:
        raise UsageError("--audio", "given without --figure", "--figure FILE: where to draw it")
    folder = fetch(options.program)
    sealed, tensors = artefact.load(folder)
    config = config_of(sealed, folder)
    found = facts(options.program, folder, config, tensors)
    missing = None
    try:
        model = _on_its_base(folder, options.base)
    except ReprogramError as error:
        if options.base:
            raise
        missing, found["slots"], found["left_out"] = error, None, error.what
    else:
        said = model.explain()
        found["slots"], found["facts"] = [dict(row) for row in said["slots"]], said["facts"]
        found["mapping"]["state"] = said["mapping"]
    print(json.dumps(found, indent=2, ensure_ascii=False) if options.json else page(found), flush=True)
    if options.figure:  # after the page, which a figure that cannot be drawn does not take away
        if missing is not None:
            raise missing
        _draw(model, options.figure, options.audio)
    return 0


def _draw(model: Any, file: str, sound: str | None) -> None:
    """The figure that was asked for, into its file."""
    from ..tools.figures import plot_mapping, plot_program

    try:
        figure = plot_program(model, sound) if sound else plot_mapping(model)
    except UsageError as error:  # what it says is for those who write Python
        hears = model.backbone.modality == "audio" and not sound
        fix = "--audio SOUND draws what the program does to a sound" if hears else "leave --figure out"
        if sound and model.active_mapping().weights() is not None:
            fix = "leave --audio out: --figure alone draws the mapping"
        raise UsageError("--figure", error.what, error.expected, fix) from error
    try:
        figure.savefig(file)
    except (ValueError, OSError) as error:  # an ending that means nothing, a folder that is not there
        raise UsageError(
            "--figure", f"{file} could not be written ({first_line(error)})", "a .png, .svg or .pdf"
        ) from error


def facts(name: str, folder: Path, config: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a program without its base, as plain JSON values.

    Args:
        name: as the user gave it.
        folder: where it lies.
        config: its ReprogramConfig.
        tensors: what is saved, by name.
    """
    from ..artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
    from ..registry import about, chosen

    def method(options: Any) -> dict[str, Any]:
        return {
            "type": options.type,
            "about": about(options.kind, options.type),
            "options": {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name != "type"},
            "chosen": [f.name for f in dataclasses.fields(options) if chosen(options, f)],
        }

    answers = config.labels or config.problem_type == "transcription"
    sizes = {f: (Path(folder) / f).stat().st_size for f in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE) if _there(folder, f)}
    fingerprint, given = config.fingerprint or {}, "FILE" if config.canvas is None else "--audio SOUND"
    return {
        "name": name,
        "program": [method(part) for part in config.programs],
        "template": (config.layout() or "{text}") if config.canvas is None else None,
        "canvas": config.canvas.shown() if config.canvas is not None else None,
        "mapping": method(config.mapping),
        "labels": config.labels,
        "words": config.mapping.label_words(),
        "numbers": sum(t.numel() for t in tensors.values()),
        "bytes": sizes,
        "tensors": [
            {"name": key, "shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for key, t in sorted(tensors.items())
        ],
        "base": {
            "name": config.base_model_name_or_path,
            "auto_class": config.base_auto_class,
            **{key: fingerprint.get(key) for key in ("class", "width", "dtype")},
        },
        "use": [
            f"hr.AutoReprogramModel.from_pretrained({json.dumps(name, ensure_ascii=False)})",
            *([f"hf-reprogram predict {shlex.quote(name)} {given}"] if answers else []),
        ],
        "training": config.training,
        "fingerprint": config.fingerprint,
        "checksum": config.checksum,
        "format_version": config.format_version,
    }


def _there(folder: Path, name: str) -> bool:
    return (Path(folder) / name).is_file()


def _on_its_base(folder: Path, base: str | None) -> Any:
    """The program on its base: on the given one, else on what this machine has of it."""
    from ..auto import AutoReprogramModel

    quiet()
    local = {} if base else {"local_files_only": True}
    return AutoReprogramModel.from_pretrained(folder, base, **local)
