"""Frozen features on the disk: the same numbers as live ones, or a refusal that names what differs (P§E, P§F)."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from torch import Tensor

import hf_reprogram as hr
from hf_reprogram import features
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.features import FEATURES_FILE, META_FILE
from hf_reprogram.model import ReprogramModel
from hf_reprogram.testing import LABELS, ROWS, tiny


WORDS = {"type": "none", "template": "{text} it was{answer}"}
PROMPT = {"type": "prompt", "template": "{prompt:3} {text} it was{answer}"}


def built(
    program: Any = WORDS, mapping: Any = None, change: Callable[[Any, Any], Any] | None = None, seed: int = 0
) -> ReprogramModel:
    """A model whose mapping is fitted on frozen features; `change` is done to base and tokenizer first."""
    base, tokenizer = tiny("llama")
    base, tokenizer = (change(base, tokenizer) if change else None) or (base, tokenizer)
    config = hr.ReprogramConfig(program=program, mapping=mapping or hr.LinearConfig(), labels=LABELS)
    model = hr.get_reprogram_model(base, config, tokenizer, seed=seed)
    for parameter in model.base_model.sites()[0].parameters():
        parameter.requires_grad_(False)
    return model


def fitted(model: ReprogramModel, rows: Any = ROWS, **options: Any) -> Tensor:
    model.fit_mapping(rows, **options)
    return model.active_mapping().matrix.clone()


def calls(model: ReprogramModel) -> list[int]:
    """Rows of every pass of the base's body from now on, each row whole."""
    seen: list[int] = []
    model.backbone.sharing = None
    body = model.backbone.base.model
    body.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["inputs_embeds"])), with_kwargs=True)
    return seen


@cache
def finished() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        fitted(built(), cache=folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished cache of ROWS."""
    made = tmp_path / "cache"
    made.mkdir()
    for name, data in finished().items():
        (made / name).write_bytes(data)
    return made


def meta_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / META_FILE).read_text())


def edit_meta(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    meta = meta_of(folder)
    change(meta)
    (folder / META_FILE).write_text(json.dumps(meta))


def refused(model: ReprogramModel, folder: Path, says: str, rows: Any = ROWS) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(UsageError, match=says) as error:
        model.fit_mapping(rows, cache=folder)
    assert "rebuild=True" in str(error.value) or error.value.expected
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before, "a refused cache was changed"


# What it gives ------------------------------------------------------------------------------------------------------


def test_cached_is_live(folder: Path) -> None:
    live = fitted(built())
    assert torch.equal(fitted(built(), cache=folder), live)
    assert sorted(p.name for p in folder.iterdir()) == [FEATURES_FILE, META_FILE]
    assert np.load(folder / FEATURES_FILE).dtype == np.float32


def test_the_body_runs_once_and_then_on_four_rows(tmp_path: Path) -> None:
    rows = [{**row, "text": row["text"] + " and" * i} for i in range(3) for row in ROWS]
    model = built()
    seen = calls(model)
    fitted(model, rows, cache=tmp_path, batch_size=7)
    assert seen == [7, 7, 4]
    fitted(model, rows, cache=tmp_path)
    fitted(built(), rows, cache=tmp_path)
    assert len(seen) == 4 and seen[3] <= 4


class TestFrozenRows:
    """Read once, for any number of mappings that read the same."""

    def test_any_number_of_fits_without_the_body(self) -> None:
        model = built()
        seen = calls(model)
        rows = model.frozen_rows(ROWS)
        assert seen == [6]
        ridge = fitted(model, rows)
        assert torch.equal(ridge, fitted(built()))
        model.add_adapter(
            "other", hr.ReprogramConfig(program=WORDS, mapping=hr.LinearConfig(solver="logistic"), labels=LABELS)
        )
        model.set_adapter("other")
        assert torch.equal(fitted(model, rows), fitted(built(mapping=hr.LinearConfig(solver="logistic"))))
        assert seen == [6]

    def test_they_are_of_this_model_or_refused(self) -> None:
        rows = built().frozen_rows(ROWS)
        with pytest.raises(UsageError, match="frozen rows: were made under another base.weights"):
            fitted(built(change=lambda base, tokenizer: tiny("llama", seed=1)), rows)
        with pytest.raises(UsageError, match="another reading.pool"):
            fitted(built(mapping=hr.LinearConfig(pool="mean")), rows)
        base, tokenizer = tiny("llama")
        config = hr.ReprogramConfig(program=WORDS, mapping=hr.LinearConfig(), labels=LABELS[::-1])
        with pytest.raises(UsageError, match="their labels are"):
            fitted(hr.get_reprogram_model(base, config, tokenizer), rows)

    def test_a_draw_of_them_needs_no_pass(self) -> None:
        model = built()
        rows = model.frozen_rows(ROWS)
        seen = calls(model)
        few = rows.select([5, 0, 4, 1])
        ridge = fitted(model, few)
        assert seen == [] and len(few) == 4 and torch.equal(few[1]["readout"], rows[0]["readout"])
        torch.testing.assert_close(ridge, fitted(model, [ROWS[i] for i in (5, 0, 4, 1)]), atol=1e-5, rtol=0)

    def test_without_labels(self) -> None:
        model = built()
        with pytest.raises(DataError, match="rows without labels"):
            fitted(model, model.frozen_rows([row["text"] for row in ROWS]))


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "from the disk"])
def test_rows_in_another_order_some_of_them_and_one_twice(
    folder: Path, mapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "IN_MEMORY", 0 if mapped else 10**9)
    for rows in (ROWS, ROWS[::-1], ROWS[2:5], [*ROWS, ROWS[1]]):
        assert torch.allclose(fitted(built(), rows, cache=folder), fitted(built(), rows), atol=1e-5)


def test_labels_are_no_part_of_a_feature(folder: Path) -> None:
    other = [{**row, "label": LABELS[i % 2]} for i, row in enumerate(ROWS)]
    assert torch.equal(fitted(built(), other, cache=folder), fitted(built(), other))


def test_batch_size_and_threads_are_no_part_of_the_key(folder: Path) -> None:
    assert meta_of(folder)["note"]["batch_size"] == 32
    edit_meta(folder, lambda meta: meta["note"].update(batch_size=7, threads=64))
    fitted(built(), cache=folder, batch_size=2)


def test_rebuild_writes_it_anew(folder: Path) -> None:
    model = built(change=lambda base, tokenizer: tiny("llama", seed=1))
    refused(model, folder, "base.weights")
    live = fitted(model)
    assert torch.equal(fitted(model, cache=folder, rebuild=True), live)
    refused(built(), folder, "base.weights")


# What a key covers: P§F, line by line -------------------------------------------------------------------------------


class TestBaseWeights:
    """P§F 1."""

    def test_a_fine_tuned_copy(self, folder: Path) -> None:
        refused(built(change=lambda base, tokenizer: tiny("llama", seed=1)), folder, "base.weights")

    @pytest.mark.parametrize("how", ["in place", "through .data"])
    def test_one_number_edited_in_memory(self, folder: Path, how: str) -> None:
        def edit(base: Any, _: Any) -> None:
            weight = base.model.layers[1].mlp.up_proj.weight
            with torch.no_grad():
                (weight if how == "in place" else weight.data)[3, 4] += 1e-4

        refused(built(change=edit), folder, "base.weights")

    def test_an_edit_that_no_counter_sees(self, folder: Path) -> None:
        """The digest is remembered by version counters, which an edit through `.data` leaves alone: a number of each
        tensor is looked at, and where that is as it was, rows tell."""
        model = built()
        model.backbone.base.model.layers[1].mlp.up_proj.weight.data[0].mul_(2)
        refused(model, folder, "computed anew differs")
        model.backbone.base.model.layers[1].mlp.up_proj.weight.data.mul_(2)
        refused(model, folder, "base.weights")

    def test_a_lora_on_the_base(self, folder: Path, tmp_path: Path) -> None:
        def add(base: Any, _: Any) -> None:
            base.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))

        model = built(change=add)
        refused(model, folder, "adapters|base.weights")
        fitted(model, cache=tmp_path / "on")
        model.backbone.base.disable_adapters()
        refused(model, tmp_path / "on", "adapters")


class TestConfigFields:
    """P§F 2: what alters the forward and no shape."""

    def test_any_field(self, folder: Path) -> None:
        refused(
            built(change=lambda base, _: setattr(base.config, "rms_norm_eps", 1e-3)),
            folder,
            r"base.config.rms_norm_eps: 1e-06 is not 0.001",
        )

    def test_attention(self, folder: Path) -> None:
        refused(built(change=lambda base, _: base.set_attn_implementation("eager")), folder, "attention: sdpa")

    def test_layers_cut(self, folder: Path) -> None:
        def cut(base: Any, _: Any) -> None:
            base.model.layers = base.model.layers[:1]
            base.config.num_hidden_layers = 1

        refused(built(change=cut), folder, "base.config.num_hidden_layers|base.weights")

    def test_frequencies_that_no_state_dict_holds(self, folder: Path) -> None:
        def change(base: Any, _: Any) -> None:
            base.model.rotary_emb.inv_freq.mul_(2)

        refused(built(change=change), folder, "buffers")


class TestArithmetic:
    """P§F 3."""

    def test_dtype(self, folder: Path) -> None:
        refused(built(change=lambda base, tokenizer: (base.to(torch.bfloat16), tokenizer)), folder, "base.dtype")

    def test_autocast(self, folder: Path) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            refused(built(), folder, "autocast: None is not torch.bfloat16")

    def test_quantisation(self, folder: Path) -> None:
        edit_meta(folder, lambda meta: meta["fields"].update(quantisation={"load_in_8bit": True}))
        refused(built(), folder, "quantisation")

    def test_a_bf16_base_is_verified_by_its_own_rounding(self, tmp_path: Path) -> None:
        halve = {"change": lambda base, tokenizer: (base.to(torch.bfloat16), tokenizer)}
        live = fitted(built(**halve), cache=tmp_path)
        assert torch.equal(fitted(built(**halve), ROWS, cache=tmp_path, batch_size=1), live)


def test_an_awake_base(folder: Path) -> None:
    """P§F 4: dropout moves features by a third, without an error."""
    model = built()
    model.backbone.base.train()
    refused(model, folder, "in train mode")


class TestTokenizer:
    """P§F 5."""

    @pytest.mark.parametrize(
        ("name", "value"),
        [("padding_side", "left"), ("truncation_side", "left"), ("model_max_length", 9), ("chat_template", "{{x}}")],
    )
    def test_settings(self, folder: Path, name: str, value: Any) -> None:
        refused(built(change=lambda _, tokenizer: setattr(tokenizer, name, value)), folder, f"tokenizer.{name}")

    def test_added_tokens(self, folder: Path) -> None:
        change = {"change": lambda _, tokenizer: tokenizer.add_tokens(["films"]) and None}
        refused(built(**change), folder, "tokenizer.rules")

    def test_special_tokens_round_the_row(self, folder: Path) -> None:
        def without_bos(_: Any, tokenizer: Any) -> None:
            from tokenizers import processors

            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A")

        refused(built(change=without_bos), folder, "tokenizer.rules")


class TestLayout:
    """P§F 6 and 7."""

    def test_template(self, folder: Path) -> None:
        refused(built({**WORDS, "template": "{text} is{answer}"}), folder, "program.0.template")

    def test_where_slots_stand(self, tmp_path: Path) -> None:
        fitted(built(PROMPT), cache=tmp_path)
        refused(built({**PROMPT, "template": "{text} {prompt:3} it was{answer}"}), tmp_path, "program.0.template")

    def test_words_that_are_read(self, tmp_path: Path) -> None:
        read = [hr.LinearConfig(on="rows", words=words) for words in ([" good", " bad"], [" good", " poor"])]
        fitted(built(mapping=read[0]), cache=tmp_path)
        refused(built(mapping=read[1]), tmp_path, "reading.ids.1")

    def test_pooling(self, folder: Path) -> None:
        refused(built(mapping=hr.LinearConfig(pool="mean")), folder, "reading.pool: answer is not mean")

    def test_what_is_read(self, folder: Path) -> None:
        refused(built(mapping=hr.LinearConfig(on="source")), folder, "reading.kind: state is not rows")

    def test_the_solver_is_no_part_of_a_feature(self, folder: Path) -> None:
        fitted(built(mapping=hr.LinearConfig(solver="logistic")), cache=folder)


class TestRows:
    """P§F 9: a digest for every row."""

    @pytest.mark.parametrize("text", ["never again this was a good day", "never again this was a bad day a"])
    def test_a_row_edited(self, folder: Path, text: str) -> None:
        refused(built(), folder, r"holds other rows: 1 of 6 .*rows\[5\]", [*ROWS[:5], {**ROWS[5], "text": text}])

    def test_rows_of_another_program(self, folder: Path) -> None:
        model = built()
        model.add_adapter("other", hr.ReprogramConfig(program=WORDS, mapping=hr.LinearConfig(), labels=LABELS))
        with pytest.raises(UsageError, match="rows of other programs"):
            model.fit_mapping([{**row, "adapter": "other"} for row in ROWS], cache=folder)


class TestProgram:
    """P§F 10."""

    def test_another_one_frozen(self, tmp_path: Path) -> None:
        fitted(built(PROMPT), cache=tmp_path)
        fitted(built(PROMPT), cache=tmp_path)
        refused(built(PROMPT, seed=1), tmp_path, "program_tensors")

    def test_one_that_trains(self, tmp_path: Path) -> None:
        model = built(PROMPT)
        model.base_model.sites()[0].requires_grad_(True)
        with pytest.raises(UsageError, match="the program trains"):
            model.fit_mapping(ROWS, cache=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not children:
        yield path
    for key, child in children:
        yield from _leaves(child, (*path, key))


def test_any_field_of_the_meta_is_compared(folder: Path) -> None:
    """P§F 11 (versions, format), and all the others, whatever they are."""
    model, meta = built(), meta_of(folder)
    paths = list(_leaves(meta["fields"]))
    assert {("versions", "torch"), ("versions", "transformers"), ("format",), ("device",)} <= set(paths)
    for path in paths:

        def change(meta: dict[str, Any], path: tuple = path) -> None:
            place = meta["fields"]
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = "another"

        edit_meta(folder, change)
        refused(model, folder, "made under another " + ".".join(map(str, path)).replace(".", r"\."))
        (folder / META_FILE).write_text(json.dumps(meta))


class TestUnfinished:
    """P§F 12: a writer that died leaves zeros."""

    def test_it_is_computed_again(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        edit_meta(folder, lambda meta: meta.update(finished=False))
        np.save(folder / FEATURES_FILE, np.zeros((6, 32), np.float32))
        with caplog.at_level(logging.WARNING, "hf_reprogram"):
            assert torch.equal(fitted(built(), cache=folder), fitted(built()))
        assert "unfinished" in caplog.text and meta_of(folder)["finished"] is True

    def test_a_pass_that_dies(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = built()
        with monkeypatch.context() as patch:
            patch.setattr(model.backbone, "states", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                model.fit_mapping(ROWS, cache=tmp_path)
        assert meta_of(tmp_path)["finished"] is False
        assert [p.name for p in tmp_path.iterdir()] == [META_FILE], "a temporary file was left"
        assert torch.equal(fitted(model, cache=tmp_path), fitted(built()))

    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(features.os, "posix_fallocate", full)
        with pytest.raises(UsageError, match=r"disk is full.* 768 bytes are needed, [\d,]+ are free") as error:
            built().fit_mapping(ROWS, cache=tmp_path)
        assert "rebuild" not in str(error.value)
        assert meta_of(tmp_path)["finished"] is False and not (tmp_path / FEATURES_FILE).exists()


class TestDamage:
    def test_a_byte(self, folder: Path) -> None:
        data = bytearray((folder / FEATURES_FILE).read_bytes())
        data[-200] ^= 1
        (folder / FEATURES_FILE).write_bytes(data)
        refused(built(), folder, "checksum")

    @pytest.mark.parametrize("row", [0, -1])
    def test_other_numbers_with_a_right_checksum(self, folder: Path, row: int) -> None:
        values = np.load(folder / FEATURES_FILE)
        values[row] *= 1.001
        np.save(folder / FEATURES_FILE, values)
        edit_meta(folder, lambda meta: meta.update(digest=features._file_digest(values)))
        refused(built(), folder, "a row computed anew differs by")

    @pytest.mark.parametrize("values", [np.zeros((5, 32), np.float32), np.zeros((6, 32))], ids=["short", "float64"])
    def test_another_table(self, folder: Path, values: Any) -> None:
        np.save(folder / FEATURES_FILE, values)
        refused(built(), folder, "not what its meta says")

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fields": {}, "rows": 1, "finished": true}', "[" * 9999])
    def test_meta(self, folder: Path, text: str) -> None:
        (folder / META_FILE).write_text(text)
        refused(built(), folder, "damaged or not ours")

    @pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x03\x04"])
    def test_no_table_at_all(self, folder: Path, data: bytes) -> None:
        (folder / FEATURES_FILE).write_bytes(data)
        refused(built(), folder, f"cut short or damaged: its {len(data)} bytes")

    def test_cut_short(self, folder: Path) -> None:
        path = folder / FEATURES_FILE
        path.write_bytes(path.read_bytes()[:-100])
        refused(built(), folder, r"cut short or damaged: its 796 bytes are no table of \[6, 32\]")

    def test_gone(self, folder: Path) -> None:
        (folder / FEATURES_FILE).unlink()
        refused(built(), folder, f"has no {FEATURES_FILE}")
        assert torch.equal(fitted(built(), cache=folder, rebuild=True), fitted(built()))


class TestNotOurs:
    """What is no cache of ours is not written into, whatever is asked for."""

    @pytest.mark.parametrize("rebuild", [False, True])
    @pytest.mark.parametrize(
        "files",
        [{META_FILE: '{"of": "a stranger"}'}, {"thesis.tex": "x", "b": "", "c": "", "d": ""}],
        ids=["meta", "any"],
    )
    def test_a_folder_of_other_files(self, tmp_path: Path, files: dict[str, str], rebuild: bool) -> None:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        with pytest.raises(UsageError, match=r"not ours.*an empty folder") as error:
            built().frozen_rows(ROWS, cache=tmp_path, rebuild=rebuild)
        assert "rebuild" not in str(error.value)
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == files

    def test_only_ours_is_replaced(self, folder: Path) -> None:
        (folder / "notes.txt").write_text("kept")
        (folder / "deeper").mkdir()
        model = built(change=lambda base, tokenizer: tiny("llama", seed=1))
        model.frozen_rows(ROWS, cache=folder, rebuild=True)
        assert sorted(path.name for path in folder.iterdir()) == ["deeper", FEATURES_FILE, META_FILE, "notes.txt"]
        model.frozen_rows(ROWS, cache=folder / "deeper")
        assert (folder / "notes.txt").read_text() == "kept"

    def test_a_table_of_someone_else(self, tmp_path: Path) -> None:
        np.save(tmp_path / FEATURES_FILE, np.zeros(3))
        refused(built(), tmp_path, "not ours")

    @pytest.mark.parametrize("below", ["file", "file/deeper/still"])
    def test_a_file_where_the_folder_should_be(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=r"file' is a file.*name a folder") as error:
            built().fit_mapping(ROWS, cache=tmp_path / below)
        assert "rebuild" not in str(error.value)
