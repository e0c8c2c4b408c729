"""Fuzzed artefacts: seeded mutants of saved programs, bytes and meaning; each loads, or is refused with our error.

Most mutants carry valid checksums again, so that they reach what stands behind the checksums: the config's validation,
the fingerprint, names, shapes and types of tensors. `test_artefact_damage.py` holds the mutants made by hand.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_reprogram import artefact, registry
from hf_reprogram.artefact import CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.errors import ArtefactError
from hf_reprogram.fingerprint import check_fingerprint
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import ROWS, logits_of
from hf_reprogram.wrap import config_of, parts_for
from tests.artefact_kit import KINDS, MORE_KINDS, host, overwrite, saved_files, snapshot, write


Files = dict[str, bytes]
ALL = [*KINDS, *MORE_KINDS]
Change = Callable[[random.Random, Any], Any]

# What somebody may write where something else was: wrong types, sizes nobody has, names of other things, odd text.
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 2**31, 2**63, 10**30, 0.0, 0.5, -1e308, 5e-324),
    *("", " ", "x", "none", "prompt", "linear", "verbalizer", "os.system", "../../x", "/etc/passwd", "float64"),
    *(
        "state",
        "rows",
        "trained",
        "batch",
        "{text",
        "{}",
        "{{",
        "{answer}",
        "{text}{answer}",
        "\x00",
        "\ud800",
        "é" * 50,
    ),
    *("{prompt:4} {text}{answer}", "{prompt:999999999} {text}{answer}", "{prompt:" + "9" * 30 + "}{text}"),
    *([], [None], [[]], ["a"], ["a", "a"], [0, 1], [-1, 2**40]),
    *({}, {"type": "none"}, {"type": "prompt"}, {"type": 7}, {"type": ["prompt"]}, {"": None}, {"a": {"b": []}}),
    *({"negative": [5], "positive": [6]}, {"negative": [], "positive": []}, {"negative": "x", "positive": "y"}),
    {"negative": [2**40], "positive": [6]},
]


# Mutants ------------------------------------------------------------------------------------------------------------


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """Flipped, cut, put in, taken out, doubled, zeroed, or a piece of itself at another place."""
    at, size = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 8, 64])
    piece = data[at : at + size]
    start = rng.randrange(len(data))
    return rng.choice(
        [
            data[:at] + bytes(b ^ (1 << rng.randrange(8)) for b in piece) + data[at + size :],
            data[:at],
            data[:at] + rng.randbytes(size) + data[at:],
            data[:at] + data[at + size :],
            data[: at + size] + data[at:],
            data[:at] + bytes(len(piece)) + data[at + size :],
            data[:at] + data[start : start + size] + data[at + size :],
            data + rng.randbytes(size),
        ]
    )


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Paths to every value inside plain JSON."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, child in children for p in [(*path, key), *places(child, (*path, key))]]


def json_changed(rng: random.Random, config: dict[str, Any]) -> None:
    """One value replaced, taken out, doubled, renamed, nested, or put where another is."""
    path = rng.choice(places(config))
    parent = config
    for key in path[:-1]:
        parent = parent[key]
    key, how = path[-1], rng.randrange(8)
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, dict):
        parent[rng.choice(["", "x", key + "s", key[:-1], key.upper(), "type"])] = parent.pop(key)
    elif how == 1:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif how == 2:
        other = config
        for step in rng.choice(places(config)):
            other = other[step]
        parent[key] = copy.deepcopy(other)
    elif how == 3:
        parent[key] = [parent[key]] if rng.random() < 0.5 else {"type": parent[key]}
    elif how == 4 and isinstance(parent[key], (int, float)):
        parent[key] = parent[key] * rng.choice([-1, 0, 2, 1000, 10**18])
    elif how == 4 and isinstance(parent[key], str) and parent[key]:
        text = parent[key]
        at = rng.randrange(len(text))
        parent[key] = text[:at] + rng.choice(["", "{", "}", ":", "9", " ", "\x00", text]) + text[at + 1 :]
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))


def tensors_changed(rng: random.Random, tensors: dict[str, Tensor]) -> None:
    """One tensor renamed, reshaped, of another type, not finite, gone, or one too many."""
    name = rng.choice([*tensors, "program.0.slots"])
    tensor = tensors.pop(name, torch.zeros(5, 32))
    how = rng.randrange(7)
    if how == 1:
        name = rng.choice(["program.1.slots", "mapping.x", "", name + ".x", name[:-1], "../x", "program.0." + name])
    elif how == 2:
        shape = rng.choice([(0,), (), (1,), (5, 31), (6, 32), (32, 5), (160,), (1, 5, 32), (2, 2, 2, 2)])
        tensor = torch.randn(shape) if shape else torch.tensor(1.0)
    elif how == 3:
        kinds = ["float16", "bfloat16", "float64", "int64", "int8", "uint8", "bool", "uint16", "complex64"]
        tensor = tensor.to(getattr(torch, rng.choice([*kinds, "float8_e4m3fn"])))
    elif how == 4 and tensor.numel() and tensor.is_floating_point():
        tensor = tensor.clone()
        tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice([float("nan"), float("inf"), 3e38, 0.0])
    elif how == 5:
        tensors[rng.choice(["program.0.slot", "mapping.offset", "base.lm_head.weight", "mapping.matrix"])] = (
            tensor.clone()
        )
    if how:
        tensors[name] = tensor


def header_changed(rng: random.Random, data: bytes) -> bytes:
    """The header of the safetensors file, read as JSON, changed, and its length put right."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    json_changed(rng, header)
    made = json.dumps(header).encode()
    return len(made).to_bytes(8, "little") + made + data[8 + size :]


def mutant(rng: random.Random, files: Files, folder: Path) -> None:
    """Write one mutant of a saved program into its folder, whose files it replaces."""
    how = rng.random()
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        overwrite(folder / name, files[name])
    if how < 0.15:
        name = rng.choice((WEIGHTS_FILE, CONFIG_FILE))
        overwrite(folder / name, bytes_changed(rng, files[name]))
    elif how < 0.25:
        other = saved_files(rng.choice(ALL))
        overwrite(folder / CONFIG_FILE, other[CONFIG_FILE])
    elif how < 0.35:
        overwrite(folder / WEIGHTS_FILE, header_changed(rng, files[WEIGHTS_FILE]))
    else:
        sealed, tensors = artefact.load(folder)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if how < 0.85:
                json_changed(rng, sealed)
            else:
                tensors_changed(rng, tensors)
        with suppress(TypeError, ValueError, KeyError):  # no JSON, or no file that safetensors writes
            write(folder, artefact.seal(sealed, tensors), tensors)


# What becomes of them -----------------------------------------------------------------------------------------------


def load(model: ReprogramModel, folder: Path) -> None:
    """All that loading does before a number of the model is touched."""
    sealed, tensors = artefact.load(folder)
    config = config_of(sealed, folder)
    check_fingerprint(config.fingerprint, model.backbone.base, model.processing_class, str(folder))
    parts_for(config, model.backbone, tensors, str(folder))


def load_and_score(model: ReprogramModel, folder: Path) -> None:
    model.load_adapter(folder, "loaded")
    try:
        model.set_adapter("loaded")
        logits_of(model, ROWS)
    finally:
        model.set_adapter("default")
        model.delete_adapter("loaded")


def fuzz(folder: Path, count: int, seed: int, whole_every: int) -> dict[str, int]:
    """How many mutants loaded and how many were refused; anything else is a failure that names its seed."""
    rng, model, wrong = random.Random(seed), host(), []
    before, seen = snapshot(model), {"loaded": 0, "refused": 0}
    kinds = {kind: saved_files(kind) for kind in ALL}
    for name, data in kinds["prompt"].items():
        (folder / name).write_bytes(data)
    for number in range(count):
        state = rng.getrandbits(64)
        mutant(random.Random(state), kinds[rng.choice(list(kinds))], folder)
        try:
            load(model, folder)
            seen["loaded"] += 1
            if seen["loaded"] % whole_every == 0:
                load_and_score(model, folder)
        except ArtefactError as error:
            assert error.where and error.what
            seen["refused"] += 1
        except Exception as error:  # the very thing that may not happen
            wrong.append(f"mutant {number}, {state}: {type(error).__name__}: {str(error)[:200]}")
            if len(wrong) == 20:
                break
    assert not wrong, "\n".join(wrong)
    assert snapshot(model) == before
    return seen


@pytest.fixture(autouse=True)
def what_is_installed_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown method is looked for among all packages, 10 ms each time."""
    monkeypatch.setattr(registry, "entry_points", cache(registry.entry_points))


def test_two_thousand(tmp_path: Path) -> None:
    seen = fuzz(tmp_path, 2000, seed=1, whole_every=10)
    assert seen["loaded"] > 100 and seen["refused"] > 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_hundred_thousand(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, 10_000, seed, whole_every=50)
