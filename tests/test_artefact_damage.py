"""Fuzzed artefacts: whatever is done to the files, they load as the very same program or raise ArtefactError."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hf_reprogram import artefact
from hf_reprogram.artefact import CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.errors import ArtefactError
from hf_reprogram.testing import ROWS, logits_of, state_hash, tiny
from tests.artefact_kit import forge, host, nothing_changes, overwrite, same, saved, snapshot, write


FILES = (WEIGHTS_FILE, CONFIG_FILE)
KINDS = ("prompt", "ridge", "nothing")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved prompt with a verbalizer."""
    return saved("prompt", tmp_path / "program")


def _is_refused(folder: Path, path: Path, data: bytes, expected: Any) -> bool:
    """Whether the damaged file is refused; if it is not, the program must be the very same."""
    overwrite(path, data)
    try:
        found = artefact.load(folder)
    except ArtefactError as error:
        assert error.where and error.what
        return True
    assert same(found, expected), "a damaged file loaded as another program"
    return False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_byte(tmp_path: Path, name: str, kind: str) -> None:
    folder = saved(kind, tmp_path)
    path, expected = folder / name, artefact.load(folder)
    data = path.read_bytes()
    loaded = [n for n in range(len(data)) if not _is_refused(folder, path, data[:n], expected)]
    # The last byte of the config is the end of its last line.
    assert loaded == ([] if name == WEIGHTS_FILE else [len(data) - 1])


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80, 0xFF])
@pytest.mark.parametrize("name", FILES)
def test_every_byte_changed(folder: Path, name: str, mask: int) -> None:
    path, expected = folder / name, artefact.load(folder)
    data = path.read_bytes()
    loaded = []
    for i, byte in enumerate(data):
        changed = data[:i] + bytes([byte ^ mask]) + data[i + 1 :]
        if not _is_refused(folder, path, changed, expected):
            loaded.append(byte)
    # What may change unseen: space between the words of JSON, and a last digit of a number that is the same number.
    assert set(loaded) <= set(b" \n0123456789") and len(loaded) <= data.count(b" ") + 2, bytes(loaded)


@pytest.mark.parametrize("name", FILES)
def test_bytes_put_in_taken_out_or_zeroed(folder: Path, name: str) -> None:
    path, expected = folder / name, artefact.load(folder)
    data = path.read_bytes()
    for i in range(0, len(data), 3):
        for changed in (data[:i] + b"\x00" + data[i:], data[:i] + data[i + 1 :], data[:i] + bytes(len(data) - i)):
            _is_refused(folder, path, changed, expected)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
        b"\x02\x00\x00\x00\x00\x00\x00\x00[]",
        b'\x15\x00\x00\x00\x00\x00\x00\x00{"__metadata__":null}',
        b'\x13\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{}}',
        b'\x27\x00\x00\x00\x00\x00\x00\x00{"__metadata__":{"hf_reprogram":"null"}}',
        b"[" * 100_000,
        b'{"checksum":' * 50_000,
        b"PK\x03\x04" + bytes(200),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_another_file_in_its_place(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(ArtefactError, match=name):
        artefact.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_damage_never_reaches_the_model(folder: Path, name: str) -> None:
    """Through the whole way of loading, at places all over the file."""
    model, path = host(), folder / name
    data = path.read_bytes()
    before = snapshot(model)
    for i in range(0, len(data), 37):
        damaged = data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]
        if name == CONFIG_FILE and _same_json(damaged, data):
            continue  # the seventeenth digit of a number, which says the same number
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError):
            model.load_adapter(folder, "default")
    assert snapshot(model) == before


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


# Hostile values for every place of the config, with checksums that are right.

VALUES: list[Any] = [
    None, True, 0, -1, 10**30, 0.5, -1e308, "", "os.system", "../../x", "{text}{answer}{answer}", [], [None], [[]],
    ["a", "a"], {}, {"type": "os.system"}, {"": None},
]  # fmt: skip


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Paths to every value inside plain JSON."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _put(config: dict[str, Any], path: tuple, value: Any) -> None:
    for key in path[:-1]:
        config = config[key]
    config[path[-1]] = copy.deepcopy(value)


@pytest.mark.parametrize("kind", ["prompt", "gradient", "contextual", "nothing"])
def test_any_value_anywhere_in_the_config(tmp_path: Path, kind: str) -> None:
    """It loads and gives scores, or is refused with ArtefactError."""
    model, folder, wrong = host(), saved(kind, tmp_path), []
    (config, tensors), before = artefact.load(folder), snapshot(model)
    for path in _places(config):
        if path[0] == "checksum":
            continue
        for value in VALUES:
            forged = copy.deepcopy(config)
            _put(forged, path, value)
            write(folder, artefact.seal(forged, tensors), tensors)
            try:
                model.load_adapter(folder, "loaded")
                model.set_adapter("loaded")
                logits_of(model, ROWS)
            except ArtefactError:
                pass
            except Exception as error:  # the very thing that may not happen
                wrong.append(f"{'.'.join(map(str, path))} = {value!r}: {type(error).__name__}: {error}")
            if "loaded" in model.peft_config:
                model.set_adapter("default")
                model.delete_adapter("loaded")
    assert snapshot(model) == before
    assert not wrong, f"{len(wrong)} of them\n" + "\n".join(wrong)


def test_nesting_that_exhausts_the_stack(folder: Path) -> None:
    for levels in (50, 300, 700):
        deep: Any = 1
        for _ in range(levels):
            deep = [deep]
        saved("prompt", folder)
        forge(folder, config=lambda c, deep=deep: c.update(training={"x": deep}))
        with pytest.raises(ArtefactError):
            host().load_adapter(folder, "loaded")


class TestNothingNamedIsImported:
    """A name in a config is looked up in a table of ours, or refused. It is never imported."""

    @pytest.fixture(autouse=True)
    def trap(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A module that can be imported, and must not be."""
        (tmp_path / "trap_module.py").write_text("class Trap: pass\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        before = set(sys.modules)
        yield
        assert "trap_module" not in sys.modules
        assert not {m for m in set(sys.modules) - before if m.startswith(("subprocess", "os.", "ctypes"))}

    @pytest.mark.parametrize(
        "name", ["trap_module", "trap_module.Trap", "os.system", "../x", "base", "__init__", "Prompt"]
    )
    @pytest.mark.parametrize("part", ["program", "mapping"])
    def test_types(self, folder: Path, part: str, name: str) -> None:
        forge(folder, config=lambda c: c.update({part: {"type": name}}))
        model = host()
        with (
            nothing_changes(model),
            pytest.raises(ArtefactError, match=f"unknown {part} {name!r}".replace(".", r"\.")),
        ):
            model.load_adapter(folder, "loaded")

    @pytest.mark.parametrize(
        "name",
        [
            "trap_module.Trap",
            "subprocess.Popen",
            "AutoModelForImageClassification",
            "AutoTokenizer",
            "LlamaForCausalLM",
            "pipeline",
            "",
            None,
            7,
        ],
    )
    def test_auto_classes(self, folder: Path, name: Any) -> None:
        forge(folder, config=lambda c: c.update(base_auto_class=name, base_model_name_or_path="x"))
        with pytest.raises(ArtefactError, match="base_auto_class"):
            AutoReprogramModel.from_pretrained(folder)

    def test_pefts_own_auto_mapping(self, folder: Path) -> None:
        """PEFT imports what `auto_mapping` names; we do not look at it."""
        mapping = {"base_model_class": "Trap", "parent_library": "trap_module"}
        forge(folder, config=lambda c: c.update(auto_mapping=mapping))
        base, tokenizer = tiny("llama")
        before = state_hash(base)
        AutoReprogramModel.from_pretrained(folder, base, tokenizer)
        assert state_hash(base) == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"secret": 1}, "no such field"),
        ({"progam": "none"}, "did you mean 'program'"),
        ({"format_version": 2}, "update hf-reprogram"),
        ({"problem_type": "regresion"}, "problem_type"),
        ({"target_modules": ["q_proj"]}, "None"),
        ({"embedding_rms": -0.1}, "a positive number"),
        ({"embedding_rms": None}, "embedding_rms"),
        ({"task_type": "NOPE"}, "task"),
    ],
)
def test_configs_that_are_not_ours(folder: Path, change: dict[str, Any], says: str) -> None:
    """Valid checksums, and still not a config that can be loaded."""
    forge(folder, config=lambda c: c.update(change))
    model = host()
    with nothing_changes(model), pytest.raises(ArtefactError, match=says):
        model.load_adapter(folder, "loaded")


@pytest.mark.parametrize("tokens", [{}, {"negative": [], "positive": []}, {"negative": [[]], "positive": [[20, 22]]}])
def test_tokens_that_are_not_those_of_the_words(tmp_path: Path, tokens: Any) -> None:
    """Found by fuzzing: without any token the verbalizer looked for the ids of single tokens, which were not there."""
    folder = saved("several-tokens", tmp_path)
    forge(folder, config=lambda c: c["mapping"].update(tokens=tokens))
    model = host()
    with nothing_changes(model), pytest.raises(ArtefactError, match="the tokens of each of the words"):
        model.load_adapter(folder, "loaded")


def test_an_answer_that_no_template_has(tmp_path: Path) -> None:
    """Found by fuzzing: without its template the verbalizer loaded, and no row could be scored."""
    folder = saved("words-only", tmp_path)
    forge(folder, config=lambda c: c["program"].pop("template"))
    model = host()
    with nothing_changes(model), pytest.raises(ArtefactError, match=r"no \{answer\} in '\{text\}'"):
        model.load_adapter(folder, "loaded")


def test_more_slots_than_its_tensors_hold(folder: Path) -> None:
    """Refused by the shapes of its tensors, before room for what the config says is taken."""
    forge(folder, config=lambda c: c["program"].update(template="{prompt:4000} {text}{answer}"))
    model = host()
    with nothing_changes(model), pytest.raises(ArtefactError, match=r"program.0.slots is \(5, 32\)"):
        model.load_adapter(folder, "loaded")


def test_a_lora_adapter_is_not_ours(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / CONFIG_FILE).write_text(json.dumps({"peft_type": "LORA"}))
    save_file({}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(ArtefactError, match="carries no config of hf_reprogram"):
        host().load_adapter(tmp_path, "loaded")
