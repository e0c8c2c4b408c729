"""The folder that is shared: checksums, atomic save, strict load.

`adapter_model.safetensors` is the truth: its metadata holds the whole config, so that replacing this one file commits
a save. `adapter_config.json` follows for people and for PEFT. A kill at any moment leaves the old artefact or the new
one (DESIGN 4.8).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .errors import ArtefactError, did_you_mean, first_line


logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "adapter_config.json", "adapter_model.safetensors", "README.md"
_METADATA = "hf_reprogram"  # ONE key: safetensors writes several in no fixed order, and a second save must be equal


# Checksums


def tensor_checksum(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _canonical(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True, ensure_ascii=False, allow_nan=False)


def seal(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config with the checksums of the weights and of itself."""
    sealed = {**config, "checksum": {"weights": tensor_checksum(tensors)}}
    sealed["checksum"] = {**sealed["checksum"], "config": hashlib.sha256(_canonical(sealed).encode()).hexdigest()}
    return sealed


def _unbroken(sealed: Any) -> bool:
    """Whether a config is one of ours, as it was sealed."""
    if not _is_shallow(sealed) or not isinstance(sealed, dict) or not isinstance(sealed.get("checksum"), dict):
        return False
    claimed = sealed["checksum"].get("config")
    plain = {**sealed, "checksum": {k: v for k, v in sealed["checksum"].items() if k != "config"}}
    try:
        return claimed == hashlib.sha256(_canonical(plain).encode()).hexdigest()
    except (TypeError, ValueError):
        return False


def _is_shallow(value: Any, levels: int = 32) -> bool:
    """Whether JSON nests less than `levels` deep: thousands of brackets exhaust the stack of whoever copies them."""
    inside: Iterable[Any] = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_is_shallow(v, levels - 1) for v in inside)


# Saving


def save(folder: str | os.PathLike, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> None:
    """Write an artefact so that a kill at any moment leaves the old one or the new one.

    Every file is written beside its place and flushed first, so that a full disk shows before anything is replaced;
    then the weights are swapped in, which is the save, then config and card.

    Raises:
        ArtefactError: the disk is full or read-only, a file stands where the folder should be, a tensor is not
            finite, the config is no JSON. The old artefact, if there was one, is intact, unless the error says that
            the new one is in place.
    """
    folder = Path(folder)
    contents = _contents(folder, config, tensors, card)
    beside = {name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    swapped = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _write(beside[name], content)
        for name in contents:
            os.replace(beside[name], folder / name)
            swapped = True
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        why = f"could not be written ({getattr(error, 'strerror', None) or first_line(error)})"
        old, new = "what was saved there before is intact", "the new program is in place; its config or card is not"
        raise ArtefactError(
            str(folder), why, "a folder with room that may be written to", new if swapped else old
        ) from error
    finally:
        _sweep(folder, beside.values())


def _contents(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], card: str) -> dict[str, bytes]:
    """The files of an artefact, the one that commits it first."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if bad:
        fix = "nothing was written; train with a lower rate"
        raise ArtefactError(str(folder), f"{bad[0]} holds NaN or infinity", "finite numbers", fix)
    try:
        sealed = seal(config, tensors)
        if not _unbroken(sealed):
            raise ValueError("it nests too deep")
        text = json.dumps(sealed, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        # safetensors writes no empty file: a program without parameters still has its config to carry.
        data = save_tensors(tensors, metadata={_METADATA: _canonical(sealed)})
        return {WEIGHTS_FILE: data, CONFIG_FILE: text.encode(), CARD_FILE: card.encode()}
    except (TypeError, ValueError) as error:
        allowed = "text, finite numbers, true, false, null, and lists and dicts of these"
        fix = "nothing was written; look at ReprogramConfig.training"
        raise ArtefactError(str(folder), f"the config is no JSON ({error})", allowed, fix) from error


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


_STALE = 3600.0  # seconds after which a temporary file is what a killed save left, not one at work


def _sweep(folder: Path, own: Iterable[Path]) -> None:
    """Remove our own temporary files, and those that killed saves left long ago. Failing to is no error."""
    with suppress(OSError, ValueError):
        for path in own:
            path.unlink(missing_ok=True)
        for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
            for path in folder.glob(f".{name}.*.tmp"):
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink(missing_ok=True)


# Loading


def resolve_folder(folder: str | os.PathLike, subfolder: str | None = None) -> Path:
    """The artefact's folder; a subfolder may not lead out of it.

    Raises:
        ArtefactError: no such folder, not an artefact, or a path that escapes.
    """
    root, made = Path(folder), "a folder made by save_pretrained"
    path = root if subfolder is None else root / subfolder
    try:
        if not path.resolve().is_relative_to(root.resolve()):
            raise ArtefactError("subfolder", f"{subfolder!r} leads out of {str(root)!r}", "a folder inside it")
        if not path.is_dir():
            raise ArtefactError(str(path), "is not a folder", f"{made}, or a repo id owner/name")
        if not (path / WEIGHTS_FILE).is_file():
            found = sorted(p.name for p in path.iterdir())[:6] or "nothing"
            inside = sorted(p.parent.name for p in path.glob(f"*/{WEIGHTS_FILE}"))
            fix = f"subfolder={inside[0]!r}: programs lie in {', '.join(inside[:6])}" if inside else None
            raise ArtefactError(str(path), f"is not an artefact: no {WEIGHTS_FILE} (it holds {found})", made, fix)
    except ArtefactError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null byte, links in a circle
        raise ArtefactError(str(path)[:200], f"could not be read ({first_line(error)})", made) from error
    return path


def load(folder: str | os.PathLike, subfolder: str | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(config as plain JSON, tensors) of an artefact, both checked.

    The config inside the weights file rules. An `adapter_config.json` whose own checksum fails was changed by hand or
    damaged: an error. One that is sound but belongs to other weights is the trace of an interrupted save: one line
    says so.

    Raises:
        ArtefactError: damaged, incomplete, or not an artefact; names the file.
    """
    path = resolve_folder(folder, subfolder)
    try:
        data = (path / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        why = f"could not be read ({first_line(error)})"
        raise ArtefactError(str(path / WEIGHTS_FILE), why, "a file that may be read") from error
    sealed, tensors = _read_weights(data, path / WEIGHTS_FILE)
    _compare_config(path / CONFIG_FILE, sealed)
    return sealed, tensors


# What a program may be made of. Newer types have no test for finite numbers in torch.
_DTYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool}
)


def _read_weights(data: bytes, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    where, again = str(path), "fetch or save it again"
    try:
        tensors = load_tensors(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, MemoryError) as error:
        raise ArtefactError(where, f"is damaged ({str(error)[:80]})", "a whole safetensors file", again) from error
    if _METADATA not in metadata:
        raise ArtefactError(where, "carries no config of hf_reprogram", "a program saved by hf_reprogram")
    try:
        sealed = json.loads(metadata[_METADATA])
    except (ValueError, RecursionError):
        sealed = None
    if not _unbroken(sealed):
        raise ArtefactError(where, "is damaged (the checksum of its config does not fit)", fix=again)
    if tensor_checksum(tensors) != sealed["checksum"].get("weights"):
        raise ArtefactError(where, "is damaged (the checksum of its tensors does not fit)", fix=again)
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ArtefactError(where, f"{name} is of type {tensor.dtype}", "torch.float32")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ArtefactError(where, f"{name} holds NaN or infinity", "finite numbers", again)
    return sealed, tensors


def _compare_config(path: Path, sealed: dict[str, Any]) -> None:
    if not path.is_file():
        logger.warning("%s is missing (an interrupted save): the config inside the weights file is used.", path)
        return
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(
            str(path),
            f"is damaged ({str(error)[:80]})",
            "JSON written by save_pretrained",
            "delete it: the weights file holds a copy",
        ) from error
    if not _unbroken(config):
        raise ArtefactError(
            str(path),
            "was changed after it was saved (its checksum does not fit)",
            "the config as saved",
            "delete it: the weights file holds a copy; to change a config, change the model and save again",
        )
    if config != sealed:
        logger.warning(
            "%s belongs to other weights (an interrupted save): the config inside the weights file is used.", path
        )


def match(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise an ArtefactError where names, shapes or types differ from what the config calls for."""
    for name in expected:
        if name not in tensors:
            raise ArtefactError(
                where, f"tensor {name!r} is missing", f"{sorted(expected)}", did_you_mean(name, tensors)
            )
    for name, tensor in tensors.items():
        if name not in expected:
            raise ArtefactError(where, f"tensor {name!r} is not part of this program", f"{sorted(expected)}")
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise ArtefactError(
                where, f"{name} is {tuple(tensor.shape)} {tensor.dtype}", f"{tuple(want.shape)} {want.dtype}"
            )


def fill(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy loaded tensors into the expected ones, after `match`."""
    match(tensors, expected, where)
    for name, tensor in tensors.items():
        expected[name].data.copy_(tensor)
