"""The checks: each holds for every program and every mapping on every family."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..artefact import CONFIG_FILE, WEIGHTS_FILE
from ..auto import AutoReprogramModel
from ..batch import Reading
from ..config import ReprogramConfig
from ..model import get_reprogram_model
from ..registry import method_class
from .helpers import (
    build,
    close,
    fit,
    flags,
    logits_of,
    loss_of,
    outputs,
    pad_more,
    rows_of,
    same_texts,
    stacked,
    state_hash,
    train_step,
    unlabelled,
)  # fmt: skip
from .models import tiny


def base_is_untouched(config: ReprogramConfig, family: str) -> None:
    """Base state, module tree, hooks and flags are as found after train, save, load, delete and unload."""
    base, tokenizer = tiny(family)
    found, numbers = flags(base), state_hash(base)
    model = get_reprogram_model(base, config, processing_class=tokenizer)
    fit(model)
    assert not any(p.requires_grad for p in base.parameters()), "a parameter of the base requires grad"
    train_step(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.load_adapter(folder, "other")
    model.set_adapter("other")
    model.delete_adapter("default")
    assert state_hash(base) == numbers, "the base's numbers changed"
    assert [m[:2] + m[3:] for m in flags(base)[0]] == [m[:2] + m[3:] for m in found[0]], "module tree or hooks changed"
    assert model.unload() is base
    assert flags(base) == found, "unload left flags changed"


def gradient_reaches_all(config: ReprogramConfig, family: str) -> None:
    """The first step moves every trainable parameter, and nothing else."""
    model = build(config, family)
    model.train()
    assert not any(m.training for m in model.backbone.base.modules()), "the base woke up"
    if not any(p.requires_grad for p in model.parameters()):
        return
    loss_of(model, rows_of(model)).backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None and p.grad.abs().sum() > 0, f"no gradient reaches {name}"
        else:
            assert p.grad is None, f"gradient at the frozen {name}"


def disabled_is_the_base(config: ReprogramConfig, family: str) -> None:
    """`disable_adapter()` gives the base's own output on rows without slots; so does a fresh zero-effect program."""
    model = build(config, family)
    with model.disable_adapter(), torch.no_grad():
        columns = model.collator(disabled=True)(unlabelled(rows_of(model)))
        ours = outputs(model(**columns))
    own, real = _own(model.backbone, columns)
    # Kaldi's energies are equal to the extractor's to 1e-4, which the base makes larger or smaller.
    allowed = 2e-4 if model.backbone.modality == "audio" else 1e-5
    close(ours * real, own * real, allowed, "disabled against the base")
    if all(method_class("program", p.type).zero_effect_at_start for p in config.programs):
        with torch.no_grad():
            batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
            fresh = outputs(model.backbone.base_output(batch))
        # A classifier's logits are compared with its own way, rows alone; the others go through the same code twice.
        twice = model.backbone.modality == "audio" or model.backbone.head is not None
        close(fresh * real, (ours if twice else own) * real, 1e-6 if twice else 1e-5, "zero effect at start")


@torch.no_grad()
def _own(backbone: Any, columns: dict[str, Any]) -> tuple[Tensor, Tensor | float]:
    """The base's own output for some rows, and which of it counts (padding's does not)."""
    if backbone.modality == "audio":
        return _own_hearing(backbone, columns["input_values"]), 1.0
    base, ids, mask = backbone.base, columns["input_ids"], columns["attention_mask"]
    if backbone.kind == "classifier":  # it finds the end of a row by its pad id, so each row goes alone
        alone = [base(input_ids=row[keep][None]).logits for row, keep in zip(ids, mask.bool(), strict=True)]
        return torch.cat(alone), 1.0
    if backbone.family.looks_beside:  # at padding too
        alone = [outputs(base(input_ids=row[keep][None]))[0] for row, keep in zip(ids, mask.bool(), strict=True)]
        own = alone[0].new_zeros(*ids.shape, alone[0].shape[-1])  # (batch, time, vocabulary or dim)
        own[mask.bool()] = torch.cat(alone)
        return own, mask.unsqueeze(-1)
    prefix = torch.tensor(backbone.decoder_prefix).expand(len(ids), -1)
    extra = {"decoder_input_ids": prefix} if backbone.kind == "seq2seq" else {}
    own = outputs(base(input_ids=ids, attention_mask=mask, **extra))
    return own, torch.ones_like(own[..., :1]) if extra else mask.unsqueeze(-1)


def _own_hearing(backbone: Any, waves: Tensor) -> Tensor:
    """The base's own output for what its own extractor makes of some waves."""
    rate = backbone.frontend.sampling_rate
    heard = backbone.extractor([w.numpy() for w in waves], sampling_rate=rate, return_tensors="pt")
    prefix = torch.tensor(backbone.decoder_prefix).expand(len(waves), -1)
    extra = {"decoder_input_ids": prefix} if backbone.decoder_prefix else {}
    return outputs(backbone.base(**heard, **extra))


def padding_changes_nothing(config: ReprogramConfig, family: str) -> None:
    """Padding side and amount, batch mates and row order change no score."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    together = logits_of(model, rows_of(model))
    alone = stacked([logits_of(model, [row]) for row in rows_of(model)])
    close(together, alone, 1e-5, "a row beside others against alone")
    close(logits_of(model, rows_of(model)[::-1]).flip(0), together, 1e-5, "row order")
    told = model.active_mapping().reading().kind == "text"  # a text's probability needs the text
    columns = model.collator()(rows_of(model) if told else unlabelled(rows_of(model)))
    for side in model.backbone.family.sides if model.backbone.modality == "text" else ():  # sound has its canvas
        with torch.no_grad():
            moved = model(**pad_more(columns, 3, side, model.backbone.kind)).logits
        close(moved, together, 1e-5, f"three more positions of padding on the {side}")
    if config.problem_type == "transcription":
        same_texts(model.predict(rows_of(model), batch_size=2), model.predict(rows_of(model)), "batches of two")
    else:
        close(model.score(rows_of(model), batch_size=2), together, 1e-5, "sorted batches of two")


def mixed_rows_equal_separate(config: ReprogramConfig, family: str) -> None:
    """Rows of different programs in one pass give what separate passes give."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    if config.problem_type == "transcription":
        _mixed_texts(model, config)
        return
    three: Any = {"type": "verbalizer", "words": {"a": [" like"], "b": [" love"], "c": [" hate"]}}
    if model.backbone.head is None:
        three = {"type": "linear", "pool": "mean", "solver": "gradient"}
    shared: Any = {"mapping": three, "labels": ["a", "b", "c"], "canvas": config.canvas}
    end = "" if model.backbone.facts.answer == "none" else "{answer}"
    prompt = {"type": "prompt", "template": "{prompt:4} {text} so" + end}
    other = prompt if model.backbone.modality == "text" else config.program
    model.add_adapter("other", ReprogramConfig(program=other, **shared), seed=1)
    model.add_adapter("plain", ReprogramConfig(program={"type": "none", "template": "{text} is" + end}, **shared))
    names = ["default", "other", "plain"] * 2
    mixed = logits_of(model, [{**row, "adapter": name} for row, name in zip(rows_of(model), names, strict=True)])
    for i, (row, name) in enumerate(zip(rows_of(model), names, strict=True)):
        model.set_adapter(name)
        alone = logits_of(model, [row])[0]
        close(mixed[i, : len(alone)], alone, 1e-5, f"row {i} of program {name}")
        assert torch.isneginf(mixed[i, len(alone) :]).all(), "classes that a row does not have are not -inf"


def _mixed_texts(model: Any, config: ReprogramConfig) -> None:
    """Of programs that write texts, which each have a pass of their own."""
    model.add_adapter("other", config, seed=1)
    names = ["default", "other"] * 3
    mixed = model.predict([{**row, "adapter": name} for row, name in zip(rows_of(model), names, strict=True)])
    for i, (row, name) in enumerate(zip(rows_of(model), names, strict=True)):
        model.set_adapter(name)
        same_texts(mixed[i : i + 1], model.predict([row]), f"row {i} of program {name}")


def saves_and_loads(config: ReprogramConfig, family: str) -> None:
    """Loaded under another name on a fresh base: scores bit-equal; a second save byte-identical; small files."""
    model = build(config, family)
    train_step(model)
    expected = logits_of(model, rows_of(model))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        base, tokenizer = tiny(family)
        again = AutoReprogramModel.from_pretrained(folder, base, tokenizer, adapter_name="another")
        assert torch.equal(logits_of(again, rows_of(model)), expected), "scores after loading differ"
        assert str(again.explain()), "a loaded program explains nothing"
        second = Path(folder) / "second"
        again.save_pretrained(second)
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            assert (second / name).read_bytes() == (Path(folder) / name).read_bytes(), f"second save: {name} differs"
        size = sum((second / name).stat().st_size for name in (WEIGHTS_FILE, CONFIG_FILE))
    numbers = sum(t.numel() for t in model.base_model.state("default").values())
    assert size <= 4 * numbers + 8192, f"{size} bytes for {numbers} numbers"


def sliced_equals_full(config: ReprogramConfig, family: str) -> None:
    """Label rows computed alone are those of the full logits."""
    model = build(config, family)
    columns = model.collator()(unlabelled(rows_of(model)))
    hears = model.backbone.modality == "audio"
    if model.backbone.head is None or not (hears or "answer_index" in columns):
        return
    ids = tuple(range(0, model.backbone.head.size, 7))
    some = model.reprogrammed.readout(columns, Reading("rows", ids=ids))
    full = model.reprogrammed.readout(columns, Reading("rows"))
    close(some, full[:, list(ids)], 1e-5, "sliced against full logits")


def accumulation_changes_nothing(config: ReprogramConfig, family: str) -> None:
    """Gradients of two accumulated half-batches are those of one batch: awake, or asleep where training draws."""
    if config.mapping.type == "none":
        return
    model = build(config, family)
    if not any(p.requires_grad for p in model.parameters()):
        return
    before = torch.get_rng_state()
    whole = _gradients(model.train(), rows_of(model))
    if not torch.equal(torch.get_rng_state(), before):
        whole = _gradients(model.eval(), rows_of(model))
    halves = _gradients(model, rows_of(model)[:2], rows_of(model)[2:])
    for name, gradient in whole.items():
        size = max(1.0, gradient.abs().max().item())  # sums over thousands of samples round by their size
        close(halves[name], gradient, 1e-5 * size, f"accumulated gradient of {name}")


def _gradients(model: Any, *parts: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Gradients of a step whose rows come in parts."""
    model.zero_grad()
    for part in parts:
        loss_of(model, part, torch.tensor(len(rows_of(model)))).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def starts_from_its_seed(config: ReprogramConfig, family: str) -> None:
    """The same seed gives the same program, whatever the global generator does."""
    states = []
    for noise in (1, 2):
        base, tokenizer = tiny(family)
        torch.manual_seed(noise)
        states.append(get_reprogram_model(base, config, tokenizer, seed=5).base_model.state("default"))
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), f"{name} depends on the global generator"


def config_survives_json(config: ReprogramConfig, family: str) -> None:
    """Config -> JSON -> config is the identity, resolved or not; the caller's config stays as it was."""
    before = copy.deepcopy(config)
    model = build(config, family)
    assert config == before, "the caller's config changed"
    for each in (config, model.peft_config["default"]):
        assert ReprogramConfig.from_dict(each.to_dict()) == each, "config -> JSON -> config differs"


def float32_whatever_the_cast(config: ReprogramConfig, family: str) -> None:
    """`.to(bfloat16)` casts the base and leaves the program's parameters float32; a bf16 base gives finite scores."""
    model = build(config, family).to(torch.bfloat16)
    assert model.backbone.dtype == torch.bfloat16
    for name, tensor in model.base_model.state("default").items():
        assert not tensor.is_floating_point() or tensor.dtype == torch.float32, f"{name} is {tensor.dtype}"
    assert logits_of(model, rows_of(model)).isfinite().all(), "scores on a bf16 base are not finite"


CHECKS: dict[str, Callable[[ReprogramConfig, str], None]] = {
    f.__name__: f
    for f in (
        base_is_untouched,
        gradient_reaches_all,
        disabled_is_the_base,
        padding_changes_nothing,
        mixed_rows_equal_separate,
        saves_and_loads,
        sliced_equals_full,
        accumulation_changes_nothing,
        starts_from_its_seed,
        config_survives_json,
        float32_whatever_the_cast,
    )
}
