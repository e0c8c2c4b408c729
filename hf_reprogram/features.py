"""Frozen features of rows, kept in a folder: computed once, and believed only where nothing that makes them differs.

A cache that is wrong says nothing, it only makes every later number wrong. So `meta.json` holds all that a feature
depends on, field by field (P§F); four rows are computed anew whenever a cache is opened; a difference is refused with
the name of the field, and nothing is rebuilt unless that is asked for.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import transformers
import xxhash
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from .backbone.probe import TOLERANCE
from .errors import UsageError, first_line
from .fingerprint import base_fingerprint, config_fields, processor_fingerprint, tensor_digest
from .tuner import foreign_adapters


logger = logging.getLogger(__name__)

FORMAT = 1
FEATURES_FILE, META_FILE = "features.npy", "meta.json"
IN_MEMORY = 10**9  # bytes up to which features are one tensor; above they stay on the disk, mapped

# (indices of rows) -> (their indices, values) part by part, in any order.
Compute = Callable[[Sequence[int]], Iterator[tuple[list[int], Tensor]]]


# What a feature depends on


def fields_of(model: Any, reading: Any, collator: Any) -> dict[str, Any]:
    """All that changes a feature without changing the row (P§F), as plain JSON by name.

    Batch size, order of the rows and number of threads are not among them: they move a feature by 1e-6.

    Raises:
        UsageError: features that are not the same twice cannot be kept.
    """
    reason = uncacheable(model, reading)
    if reason:
        raise UsageError("cache", reason, "a frozen base, asleep, under programs that do not train")
    base, device = model.backbone.base, model.backbone.device.type
    mapped = {
        "base": base_fingerprint(base) | {"config": config_fields(base)},
        "buffers": tensor_digest(_unsaved_buffers(base)),  # rotary frequencies and the like are in no state dict
        "attention": base.config._attn_implementation,
        "adapters": foreign_adapters(base),
        "quantisation": getattr(base.config, "quantization_config", None),
        "autocast": str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None,
        "device": device,
        "tokenizer": _tokenizer_fields(model.processing_class),
        "facts": asdict(collator.facts),
        "program": [asdict(p.options) | {"unit": p.scale} for p in model.active_programs()],
        "program_tensors": tensor_digest(
            {f"{i}.{k}": v for i, p in enumerate(model.active_programs()) for k, v in p.state_dict().items()}
        ),
        "reading": asdict(reading),
        "versions": {
            "torch": _minor(torch.__version__),
            "transformers": _minor(transformers.__version__),
            "cache": FORMAT,
        },
    }
    return json.loads(json.dumps(mapped, default=_plain))


def uncacheable(model: Any, reading: Any) -> str | None:
    """Why what is read of a row is not the same every time; None where it is.

    What the model cannot know is the caller's to rule out: random crops, random order of words, dropout in the rows.
    """
    if reading.kind == "base":
        return "the mapping reads the base's whole output"
    if any(p.requires_grad for program in model.active_programs() for p in program.parameters()):
        return "the program trains: every step changes its features"
    if any(m.training for m in model.backbone.base.modules() if not isinstance(m, GradientCheckpointingLayer)):
        return "the base is in train mode, its dropout is awake"
    return None


def _tokenizer_fields(tokenizer: Any) -> dict[str, Any]:
    names = ("padding_side", "truncation_side", "model_max_length", "chat_template")
    return {"rules": processor_fingerprint(tokenizer), **{n: getattr(tokenizer, n, None) for n in names}}


def _unsaved_buffers(base: torch.nn.Module) -> dict[str, Tensor]:
    saved = base.state_dict(keep_vars=True).keys()
    return {name: tensor for name, tensor in base.named_buffers() if name not in saved}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _plain(value: Any) -> Any:
    """What JSON does not know, a quantisation config say, as its dict or its text."""
    return value.to_dict() if callable(getattr(value, "to_dict", None)) else str(value)


def row_keys(made: Sequence[Any]) -> list[str]:
    """A digest per laid out row (ids, slots, answer): the whole way from text to ids is in it, the label is not."""
    laid = ({k: v for k, v in vars(row).items() if k not in ("label", "adapter")} for row in made)
    return [xxhash.xxh3_64_hexdigest(json.dumps(row, sort_keys=True).encode()) for row in laid]


# The folder


def kept(
    owner: Any, folder: str | os.PathLike, fields: Mapping[str, Any], keys: Sequence[str], compute: Compute,
    rebuild: bool = False, note: Mapping[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """Features of rows from a folder, computed and written there where it holds none.

    Rows are known by their digests: they may come in another order, or be some of those that were written.

    Args:
        owner: the model; what it has opened and verified once, it need not verify again.
        folder: of the cache; made where it is missing.
        fields: from `fields_of`.
        keys: from `row_keys`.
        compute: gives the features of some rows.
        rebuild: write the cache anew, whatever it holds.
        note: goes into `meta.json`, compared with nothing.

    Returns:
        (rows, K) float32, in the order of `keys`; mapped from the disk above `IN_MEMORY`.

    Raises:
        UsageError: a cache of something else, named; a damaged one; a full disk.
    """
    folder = Path(folder)
    try:
        meta = None if rebuild else _read_meta(folder)
        if meta is None:
            _write(folder, fields, keys, compute, note or {})
            meta = _read_meta(folder)
        _compare(folder, meta, fields)
        index = _find(folder, meta, keys)
        values = _opened(owner, folder, meta, compute, keys, index)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise _refused(folder, f"could not be used ({first_line(error)})") from error
    return values if index == list(range(len(values))) else values[torch.tensor(index)]


def _refused(folder: Path, what: str) -> UsageError:
    return UsageError(f"cache {str(folder)!r}", what, None, "another folder, or rebuild=True to write it anew")


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """What a finished cache says of itself; None where there is none, or where a writer was stopped."""
    path = folder / META_FILE
    if not path.exists():
        if (folder / FEATURES_FILE).exists():
            raise _refused(folder, f"holds a {FEATURES_FILE} and no {META_FILE}: not ours")
        return None
    try:
        meta = json.loads(path.read_bytes())
        known = isinstance(meta, dict) and isinstance(meta["fields"], dict) and isinstance(meta["rows"], list)
        finished = meta["finished"]
    except (ValueError, KeyError, TypeError, RecursionError):
        known = finished = False
    if not known:
        raise _refused(folder, f"has a {META_FILE} that is damaged or not ours")
    if not finished:
        logger.warning("%s was left unfinished: its features are computed again.", folder)
        return None
    return meta


def _compare(folder: Path, meta: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise where a field differs; names the field and both values."""
    theirs, ours = dict(_flat(meta["fields"])), dict(_flat(fields))
    for name in sorted(theirs.keys() | ours.keys(), key=lambda n: (not n.startswith("versions"), n)):
        if theirs.get(name) != ours.get(name):
            shown = [str(side.get(name))[:60] for side in (theirs, ours)]
            raise _refused(folder, f"holds features made under another {name}: {shown[0]} is not {shown[1]}")


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
) -> None:
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


def _new_file(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A file of its full size. The room is taken now: a mapped write on a full disk ends the process."""
    values = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    if hasattr(os, "posix_fallocate"):  # not on a Mac
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return values


def _file_digest(values: np.ndarray) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).data)


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


# Opening and verifying

_OPEN: WeakKeyDictionary[Any, tuple[Any, Tensor]] = WeakKeyDictionary()  # model -> (what it has verified, features)


def _opened(
    owner: Any, folder: Path, meta: Mapping[str, Any], compute: Compute, keys: Sequence[str], index: Sequence[int]
) -> Tensor:
    """The whole table, verified once per model and state of the folder."""
    files = [(folder / name).stat() for name in (META_FILE, FEATURES_FILE)]
    state = (str(folder.resolve()), [(s.st_ino, s.st_mtime_ns, s.st_size) for s in files], meta["fields"])
    known = _OPEN.get(owner)
    if known is not None and known[0] == state:
        return known[1]
    values = _load(folder, meta)
    _verify(owner, folder, values, compute, keys, index)
    _OPEN[owner] = (state, values)
    return values


def _load(folder: Path, meta: Mapping[str, Any]) -> Tensor:
    mapped = np.lib.format.open_memmap(folder / FEATURES_FILE, mode="c")
    if list(mapped.shape) != meta.get("shape") or mapped.dtype != np.float32 or len(mapped) != len(meta["rows"]):
        raise _refused(folder, f"{FEATURES_FILE} is {mapped.shape} {mapped.dtype}, not what its meta says")
    if mapped.nbytes > IN_MEMORY:
        return torch.from_numpy(mapped)
    whole = np.array(mapped)
    if _file_digest(whole) != meta.get("digest"):
        raise _refused(folder, f"{FEATURES_FILE} is damaged (its checksum does not fit)")
    return torch.from_numpy(whole)


def _verify(
    owner: Any, folder: Path, values: Tensor, compute: Compute, keys: Sequence[str], index: Sequence[int]
) -> None:
    """Compute four of the rows anew: the first, the last, two that their digests choose."""
    chosen = int(xxhash.xxh3_64_intdigest("".join(keys).encode()))
    rows = sorted({0, len(keys) - 1, chosen % len(keys), chosen // len(keys) % len(keys)})
    base = owner.backbone.base
    allowed = TOLERANCE.get(torch.bfloat16 if getattr(base, "is_quantized", False) else base.dtype, 1e-4)
    for found, fresh in compute(rows):
        old = values[torch.tensor([index[i] for i in found])]
        gap = ((old - fresh).abs().amax(1) / fresh.abs().amax(1).clamp(min=1e-6)).max().item()
        if not gap <= allowed:
            raise _refused(
                folder, f"a row computed anew differs by {gap:.2g} of its largest number, and no field says why"
            )
