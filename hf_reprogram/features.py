"""Frozen features of rows, kept in a folder: computed once, and believed only where nothing that makes them differs.

A cache that is wrong says nothing, it only makes every later number wrong. So `meta.json` holds all that a feature
depends on, field by field (P§F); four rows are computed anew whenever a cache is opened; a difference is refused with
the name of the field, and nothing is rebuilt unless that is asked for.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbone.base import tolerance
from .errors import ReprogramError, UsageError, first_line
from .fingerprint import config_fields, look_again, processor_fingerprint, tensor_digest, weights_fingerprint
from .tuner import foreign_adapters


logger = logging.getLogger(__name__)

FORMAT = 1
FEATURES_FILE, META_FILE = "features.npy", "meta.json"
IN_MEMORY = 10**9  # bytes up to which features are one tensor; above they stay on the disk, mapped

# (indices of rows) -> (their indices, values) part by part, in any order.
Compute = Callable[[Sequence[int]], Iterator[tuple[list[int], Tensor]]]


# What a feature depends on


def fields_of(model: Any, reading: Any) -> dict[str, Any]:
    """All that changes a feature without changing the row (P§F), as plain JSON by name.

    Batch size, order of the rows and number of threads are not among them: they move a feature by 1e-6.

    Raises:
        UsageError: features that are not the same twice cannot be kept.
    """
    modules = dict(model.backbone.base.named_modules())
    reason = uncacheable(model, reading, modules)
    if reason:
        raise UsageError("frozen features", reason, "a frozen base, asleep, under programs that do not train")
    base, device, programs = model.backbone.base, model.backbone.device.type, model.active_programs()
    look_again(base)
    canvas = model.peft_config[model.active_name()].canvas
    tensors = {f"{i}.{key}": tensor for i, p in enumerate(programs) for key, tensor in p.state_dict().items()}
    found = {
        "base": weights_fingerprint(base, modules.values()) | {"config": config_fields(base)},
        "buffers": tensor_digest(_unsaved_buffers(modules)),  # rotary frequencies and the like are in no state dict
        "attention": base.config._attn_implementation,
        "adapters": foreign_adapters(modules),
        "quantisation": getattr(base.config, "quantization_config", None),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
        "device": device,
        "tokenizer": _tokenizer_fields(model.processing_class),
        "facts": asdict(model.backbone.facts),
        "canvas": asdict(canvas) if canvas is not None else None,
        "program": [asdict(p.options) | {"unit": p.scale} for p in programs],
        "program_tensors": tensor_digest(tensors),
        "reading": asdict(reading),
        "versions": {"torch": _minor(torch.__version__), "transformers": _minor(transformers.__version__)},
        "format": FORMAT,
    }
    return json.loads(json.dumps(found, default=_plain))


def uncacheable(model: Any, reading: Any, modules: Mapping[str, nn.Module] | None = None) -> str | None:
    """Why what is read of a row is not the same every time; None where it is.

    What the model cannot know is the caller's to rule out: random crops, random order of words, dropout in the rows.

    Args:
        modules: of the base by name, where the caller has walked through them already.
    """
    if reading.kind == "base":
        return "the mapping reads the base's whole output"
    if reading.kind == "positions":
        return "the mapping reads each row at positions of its own"
    if any(p.requires_grad for program in model.active_programs() for p in program.parameters()):
        return "the program trains: every step changes its features"
    modules = dict(model.backbone.base.named_modules()) if modules is None else modules
    if any(m.training and not isinstance(m, GradientCheckpointingLayer) for m in modules.values()):
        return "the base is in train mode, its dropout is awake"
    return None


def _tokenizer_fields(tokenizer: Any) -> dict[str, Any]:
    names = ("padding_side", "truncation_side", "model_max_length", "chat_template")
    return {"rules": processor_fingerprint(tokenizer), **{n: getattr(tokenizer, n, None) for n in names}}


def _unsaved_buffers(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    held = ((name, m) for name, m in modules.items() if m._non_persistent_buffers_set)
    return {f"{name}.{key}": m.get_buffer(key) for name, m in held for key in m._non_persistent_buffers_set}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _plain(value: Any) -> Any:
    """What JSON does not know, a quantisation config say, as its dict or its text."""
    return value.to_dict() if callable(getattr(value, "to_dict", None)) else str(value)


def row_keys(made: Sequence[Any]) -> list[str]:
    """A digest per laid out row."""
    return [row.key() for row in made]


# The folder


class FrozenRows(Dataset):
    """Rows as one mapping sees them under one frozen model: `{"readout": (...), "label": ...}`.

    Args:
        values: (rows, K), of frames (rows, frames, K), float32, in memory or mapped from the disk.
        labels: (rows, ...) as the loss takes them; None where the rows have none.
        lengths: of the laid out rows, so that batches are drawn as they are from live rows.
        names: the target labels.
        fields: what the values depend on.
    """

    def __init__(
        self, values: Tensor, labels: Tensor | None, lengths: Sequence[int], names: list[str] | None,
        fields: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.values, self.labels, self.lengths = values, labels, list(lengths)
        self.names, self.fields = names, fields

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {"readout": self.values[index]}
        return row if self.labels is None else row | {"label": self.labels[index]}

    def select(self, rows: Sequence[int]) -> FrozenRows:
        """The given rows, in the given order: a draw of few, without a pass of its own."""
        index = torch.as_tensor(rows, dtype=torch.long)
        labels = None if self.labels is None else self.labels[index]
        return FrozenRows(self.values[index], labels, [self.lengths[i] for i in index], self.names, self.fields)

    def check(self, model: Any, names: list[str] | None) -> None:
        """Raise where they are not what the model's active mapping would read now.

        Raises:
            UsageError: names what differs.
        """
        if names != self.names:
            raise UsageError("frozen rows", f"their labels are {self.names}", f"{names}")
        difference = _difference(self.fields, fields_of(model, model.active_mapping().fit_reading()))
        if difference:
            raise UsageError("frozen rows", f"were {difference}", fix="freeze the rows again: model.frozen_rows(rows)")


def kept(
    owner: Any, folder: str | os.PathLike, fields: Mapping[str, Any], keys: Sequence[str], compute: Compute,
    rebuild: bool = False, note: Mapping[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """Features of rows from a folder, computed and written there where it holds none.

    Rows are known by their digests: they may come in another order, or be some of those that were written.

    Args:
        owner: the model whose features these are.
        folder: of the cache; made where it is missing.
        fields: from `fields_of`.
        keys: from `row_keys`.
        compute: gives the features of some rows.
        rebuild: write the cache anew, whatever it holds; what is no cache of ours is not touched.
        note: goes into `meta.json`, compared with nothing.

    Returns:
        (rows, ...) float32, in the order of `keys`; mapped from the disk above `IN_MEMORY`. Four rows of a cache
        that was there are verified.

    Raises:
        UsageError: a cache of something else, named; a damaged one; a folder of other files; a full disk.
    """
    folder = Path(folder)
    try:
        meta = _read_meta(folder)
        if meta is not None and not meta["finished"] and not rebuild:
            logger.warning("%s was left unfinished: its features are computed again.", folder)
        if rebuild or meta is None or not meta["finished"]:
            return _load(folder, _write(folder, fields, keys, compute, note or {}))
        difference = _difference(meta["fields"], fields)
        if difference:
            raise _refused(folder, f"holds features {difference}")
        index = _find(folder, meta, keys)
        values = _load(folder, meta)
        values = values if index == list(range(len(values))) else values[torch.tensor(index)]
        _verify(folder, values, keys, compute, tolerance(_coarsest(owner.backbone.base)))
    except (OSError, ValueError) as error:
        if isinstance(error, ReprogramError):
            raise
        what = f"could not be used ({first_line(error)})"
        raise UsageError(f"cache {str(folder)!r}", what, "a folder that can be read and written") from error
    return values


def _refused(folder: Path, what: str) -> UsageError:
    return UsageError(f"cache {str(folder)!r}", what, None, "another folder, or rebuild=True to write it anew")


def _foreign(folder: Path, what: str, fix: str) -> UsageError:
    """Of what is not ours to write into: `rebuild` does not help."""
    return UsageError(f"cache {str(folder)!r}", what, "a cache of ours, an empty folder, or none yet", fix)


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """What a cache of ours says of itself, finished or not; None where the folder is empty or not there yet.

    Raises:
        UsageError: a file where the folder should be, or a folder that is someone else's.
    """
    file = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if file is not None:
        raise _foreign(folder, f"{str(file)!r} is a file", "name a folder")
    path = folder / META_FILE
    if not path.exists():
        found = folder.iterdir() if folder.is_dir() else ()
        # Of hidden files some are left by a writer of ours that was killed, others put into any folder (.gitkeep).
        others = sorted(path.name for path in found if not path.is_dir() and not path.name.startswith("."))
        if others:
            shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
            raise _foreign(folder, f"holds {shown}: not ours", "a folder inside it, or another one")
        return None
    try:
        meta = json.loads(path.read_bytes())
        known = isinstance(meta["fields"], dict) and isinstance(meta["rows"], list) and "finished" in meta
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        fix = "another folder; where it is a cache that was damaged, delete the folder"
        raise _foreign(folder, f"has a {META_FILE} that is damaged or not ours", fix)
    return meta


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first field that differs, with both values."""
    theirs, ours = dict(_flat(theirs)), dict(_flat(ours))
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            return f"made under another {name}: {str(theirs.get(name))[:60]} is not {str(ours.get(name))[:60]}"
    return None


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children:
        yield name, value
    for key, child in children:
        yield from _flat(child, f"{name}.{key}" if name else str(key))


def _find(folder: Path, meta: Mapping[str, Any], keys: Sequence[str]) -> list[int]:
    where = {key: i for i, key in enumerate(meta["rows"])}
    missing = [i for i, key in enumerate(keys) if key not in where]
    if missing:
        raise _refused(
            folder, f"holds other rows: {len(missing)} of {len(keys)} are not in it, first rows[{missing[0]}]"
        )
    if list(keys) == meta["rows"]:
        return list(range(len(keys)))  # the same rows stand twice in some data: those keep their own places
    return [where[key] for key in keys]


def _write(
    folder: Path, fields: Mapping[str, Any], keys: Sequence[str], compute: Compute, note: Mapping[str, Any]
) -> dict[str, Any]:
    """Compute everything into a file of a temporary name; the finished meta makes it a cache."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"finished": False, "fields": fields, "rows": list(keys), "note": dict(note)}
    _replace(folder / META_FILE, json.dumps(meta).encode())
    beside = folder / f".{FEATURES_FILE}.{os.getpid()}.tmp"
    values = None
    try:
        for index, part in compute(range(len(keys))):
            if values is None:
                values = _new_file(beside, (len(keys), *part.shape[1:]))
            values[index] = part.numpy()
        values.flush()
        meta |= {"finished": True, "shape": list(values.shape), "digest": _file_digest(values)}
        del values
        os.replace(beside, folder / FEATURES_FILE)
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
    _replace(folder / META_FILE, json.dumps(meta).encode())
    return meta


def _new_file(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A file of its full size. The room is taken now: a mapped write on a full disk ends the process."""
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on a Mac
        with _room(path.parent, values.nbytes), path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return values


@contextmanager
def _room(folder: Path, size: int) -> Iterator[None]:
    """A full disk is told in bytes: computing anew would not help."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        what = f"the disk is full, or your share of it: {size:,} bytes are needed"
        what += f", {shutil.disk_usage(folder).free:,} are free"
        raise UsageError(f"cache {str(folder)!r}", what, None, "make room, or a folder on another disk") from error


def _file_digest(values: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _room(path.parent, len(content)):
            beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# Opening and verifying


def _load(folder: Path, meta: Mapping[str, Any]) -> Tensor:
    path = folder / FEATURES_FILE
    if not path.exists():
        raise _refused(folder, f"has no {FEATURES_FILE}")
    try:
        mapped = np.lib.format.open_memmap(path, mode="c")
    except ValueError as error:  # numpy's words are of its own inside ("mmap length is greater than file size")
        what = f"{FEATURES_FILE} is cut short or damaged: its {path.stat().st_size:,} bytes are no table"
        raise _refused(folder, f"{what} of {meta.get('shape')}") from error
    if list(mapped.shape) != meta.get("shape") or mapped.dtype != np.float32 or len(mapped) != len(meta["rows"]):
        raise _refused(folder, f"{FEATURES_FILE} is {mapped.shape} {mapped.dtype}, not what its meta says")
    if mapped.nbytes > IN_MEMORY:
        return torch.from_numpy(mapped)
    whole = np.array(mapped)
    if _file_digest(whole) != meta.get("digest"):
        raise _refused(folder, f"{FEATURES_FILE} is damaged (its checksum does not fit)")
    return torch.from_numpy(whole)


def _verify(folder: Path, values: Tensor, keys: Sequence[str], compute: Compute, allowed: float) -> None:
    """Compute four of the rows anew: the first, the last, two that their digests choose."""
    chosen = int(xxhash.xxh3_64_intdigest("".join(keys).encode()))
    rows = sorted({0, len(keys) - 1, chosen % len(keys), chosen // len(keys) % len(keys)})
    for index, fresh in compute(rows):
        gap, size = (values[torch.tensor(index)] - fresh).abs().flatten(1), fresh.abs().flatten(1)
        off = gap.amax(1) / size.amax(1).clamp(min=1e-6)
        if not bool((off <= allowed).all()):
            why = f"a row computed anew differs by {off.max():.2g} of its largest number, and no field says why"
            raise _refused(folder, why)


def _coarsest(base: Any) -> torch.dtype:
    """The type whose rounding a feature shows: a quantised base rounds by what stands beside it in the batch."""
    return torch.bfloat16 if getattr(base, "is_quantized", False) else base.dtype
