"""Traps of programs inside a frozen speech encoder, by their numbers in methods-speech.md §0.2 (S)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as t
from torch import nn

from hf_reprogram.batch import Reading
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import AUDIO_ROWS, flags, state_hash, tiny
from hf_reprogram.testing.helpers import loss_of, train_step


KIN = ("wav2vec2-classifier", "hubert-encoder", "wavlm-classifier", "unispeechsat-classifier", "sew-classifier",
       "data2vec-classifier")  # fmt: skip
EVERY = {
    "latent_insert": {"length": 4}, "latent_deep": {"length": 4}, "latent_overwrite": {"length": 1},
    "latent_shift": {}, "latent_film": {}, "latent_prefix": {"length": 3}, "latent_bridge": {"rank": 4, "kernel": 3},
}  # fmt: skip


def _model(program: str, family: str, base: Any = None, samples: int | None = None, **options: Any) -> ReprogramModel:
    made, processor = tiny(family)
    mapping = options.pop("mapping", {"type": "linear", "on": "state", "pool": "mean", "solver": "gradient"})
    config = ReprogramConfig(
        program={"type": program, **options}, mapping=mapping, labels=["negative", "positive"],
        canvas={"samples": samples or 3200},
    )  # fmt: skip
    return get_reprogram_model(base or made, config, processor)


def _wake(model: ReprogramModel, seed: int = 0) -> ReprogramModel:
    """Parameters that are nowhere zero, so that everything acts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.active_programs()[0].parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return model


def _masked(model: ReprogramModel) -> ReprogramModel:
    """The same base told that its last third is padding, as an extractor with a mask would."""
    front = model.backbone.frontend
    plain = front.features

    def features(wave: torch.Tensor, lengths: Any = None) -> dict[str, torch.Tensor]:
        mask = torch.ones_like(wave, dtype=torch.long)
        mask[:, wave.shape[1] * 2 // 3 :] = 0
        return {**plain(wave, lengths), "attention_mask": mask}

    front.features = features
    return model


@pytest.mark.parametrize("family", KIN)
@pytest.mark.parametrize("program", ["latent_insert", "latent_shift"])
def test_s7_in_place_masking_takes_what_the_program_hands_over(program: str, family: str) -> None:
    """`hidden_states[~mask] = 0` refuses a leaf, and a view of one."""
    model = _masked(_model(program, family, **EVERY[program]))
    model.train()
    loss_of(model, AUDIO_ROWS).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.active_programs()[0].parameters())


def test_s7_a_leaf_would_be_refused() -> None:
    """The trap is there still: an expanded parameter in the program's place crashes in the encoder."""
    model = _masked(_model("latent_insert", "wav2vec2-classifier"))
    leaf = nn.Parameter(torch.zeros(1, 1, 32))

    def bare(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (leaf.expand(len(hidden), hidden.shape[1], -1),), {
            k: v for k, v in kwargs.items() if k != "hidden_states"
        }

    columns = model.collator()([{"audio": AUDIO_ROWS[0]["audio"]}])
    batch = model.reprogrammed.batch(**columns)
    batch.hooks = (("encoder", bare),)
    with pytest.raises(RuntimeError, match="in-place"):
        model.backbone.run(batch, Reading("state", pool="mean"))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("family", KIN)
@pytest.mark.parametrize("program", ["latent_insert", "latent_deep"])
def test_s8_frames_put_in_are_taken_out(program: str, family: str, masked: bool) -> None:
    """States have as many frames as without, with a mask and without one; what is pooled are the clip's own frames."""
    if (program, family) == ("latent_deep", "sew-classifier"):
        return  # refused: tests/programs/test_latent.py
    model = _wake(_model(program, family, length=4))
    if masked:
        _masked(model)
    columns = model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS])
    seen: dict[str, tuple[int, ...]] = {}
    for name, batch in (("plain", model.reprogrammed.batch(**columns)), ("with", _through(model, columns))):
        batch.hooks += (("encoder:after", lambda m, a, k, out, name=name: seen.update({name: _shape(out)})),)
        model.backbone.base_output(batch)
    assert seen["plain"] == seen["with"]


def _through(model: ReprogramModel, columns: dict[str, Any]) -> Any:
    return model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)


def _shape(out: Any) -> tuple[int, ...]:
    return tuple((out if isinstance(out, torch.Tensor) else out[0]).shape)


def test_s8_readings_of_inner_layers_are_refused() -> None:
    """There the frames put in stand among the others still."""
    reads = {"type": "linear", "on": "state", "pool": "mean", "layer": 1, "solver": "gradient"}
    with pytest.raises(ConfigError, match="latent_insert.*reads layer 1"):
        _model("latent_insert", "wav2vec2-classifier", mapping=reads)
    base, _ = tiny("wav2vec2-classifier")
    base.config.use_weighted_layer_sum = True
    with pytest.raises(ConfigError, match="latent_insert.*sums over all layers"):
        classes = {"type": "linear", "on": "classes", "solver": "gradient"}
        _model("latent_insert", "wav2vec2-classifier", base, mapping=classes)


@pytest.mark.parametrize("family", ["wav2vec2-classifier", "hubert-encoder"])
def test_s9_insertion_has_no_start_without_effect(family: str) -> None:
    """Frames of zeros move those of the clip, by position and by attention: nothing else is claimed."""
    model = _model("latent_insert", family, length=4)
    assert not model.active_programs()[0].zero_effect_at_start
    with torch.no_grad():
        model.active_programs()[0].prompt.zero_()
    columns = model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS])
    reading = Reading("state", pool="mean")
    with torch.no_grad():
        plain = model.backbone.run(model.reprogrammed.batch(**columns), reading).values
        moved = model.backbone.run(_through(model, columns), reading).values
    assert (plain - moved).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["ast-classifier", "whisper-classifier"])
@pytest.mark.parametrize("program", ["mel_prompt", "latent_insert", "spec_additive"])
def test_s12_bases_of_fixed_length_get_their_length(program: str, family: str) -> None:
    """AST and Whisper raise on ten frames more or less; a program that puts some in keeps the number."""
    samples = 4080 if family == "ast-classifier" else 16_000
    model = _model(program, family, samples=samples, **({} if program == "spec_additive" else {"length": 2}))
    columns = model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS])
    batch = _through(model, columns)
    model.backbone.base_output(batch)
    batch = model.backbone.bring(batch, "features")
    for frames in (batch.input_features[..., :-10], nn.functional.pad(batch.input_features, (0, 10))):
        batch.input_features = frames
        with pytest.raises((RuntimeError, ValueError)):
            model.backbone.base_output(batch)


def _sew_d() -> t.PreTrainedModel:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    return t.SEWDForSequenceClassification(
        t.SEWDConfig(**small, conv_dim=(16,) * 13, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
    )


def _refusing() -> t.PreTrainedModel:
    """A base whose attention is one piece of code: transformers raises."""
    base = tiny("wav2vec2-classifier")[0]

    def refuse(name: str) -> None:
        if name != base.config._attn_implementation:
            raise ValueError(name)

    base.set_attn_implementation = refuse
    return base


BASES = {"wavlm": lambda: tiny("wavlm-classifier")[0], "sew-d": _sew_d, "raises": _refusing}


@pytest.mark.parametrize("name", BASES)
def test_s16_a_prefix_that_would_train_nothing_is_refused(name: str) -> None:
    """WavLM and SEW-D ignore another attention without a word; others raise. All are left as they were."""
    base = BASES[name]()
    found, attention = flags(base), base.config._attn_implementation
    with pytest.raises(ConfigError, match=rf"latent_prefix.*{type(base).__name__}"):
        _model("latent_prefix", "wav2vec2-classifier", base)
    assert flags(base) == found and base.config._attn_implementation == attention


def test_s16_attention_that_is_replaced_and_not_called_is_seen() -> None:
    """A base that takes the name and goes on with its own attention: the function would never run."""
    model = _model("latent_shift", "wav2vec2-classifier")
    attention = model.backbone.site("attention:1")
    attention.config = copy.copy(attention.config)  # it alone does not hear of the change
    assert not model.backbone.can_add_to_attention(3200)
    attention.config = model.backbone.base.config
    assert model.backbone.can_add_to_attention(3200)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "family",
    ["wav2vec2-ctc", "whisper-seq2seq", "moonshine-seq2seq", "wav2vec2bert-classifier", "speech2text-seq2seq"],
)
def test_s16_a_prefix_is_called_and_taken_off(family: str, attention: str) -> None:
    """Where it is not refused the gate learns at once, keys and values after it, under either attention; the base's
    attention is its own again after each call."""
    base, _ = tiny(family)
    if family != "speech2text-seq2seq":  # knows but one
        base.set_attn_implementation(attention)
    attention = base.config._attn_implementation
    model = _model("latent_prefix", family, base, length=3)
    program = model.active_programs()[0]
    model.train()
    loss_of(model, AUDIO_ROWS).backward()
    assert program.gate.grad.abs().min() > 0 and program.keys.grad.abs().sum() == 0
    model.zero_grad()
    train_step(model)
    loss_of(model, AUDIO_ROWS).backward()
    assert program.keys.grad.abs().sum() > 0 and program.values.grad.abs().sum() > 0
    assert base.config._attn_implementation == attention


def test_s16_layers_behind_the_one_that_is_read_are_refused() -> None:
    reads = {"type": "linear", "on": "state", "pool": "mean", "layer": 1, "solver": "gradient"}
    with pytest.raises(ConfigError, match="reads layer 1 of a Wav2Vec2.*nothing would train"):
        _model("latent_shift", "wav2vec2-classifier", layers=[1], mapping=reads)
    with pytest.raises(ConfigError, match="LatentFilmConfig.target.*reads layer 1.*nothing would train"):
        _model("latent_film", "wav2vec2-classifier", target="output", mapping=reads)
    model = _model("latent_shift", "wav2vec2-classifier", layers=None, mapping=reads)
    assert model.peft_config["default"].program.layers == [0]
    loss_of(model, AUDIO_ROWS).backward()
    assert model.active_programs()[0].shift.grad.abs().sum() > 0


@pytest.mark.parametrize("program", ["latent_bridge", "latent_insert"])
def test_s17_batch_norm_in_the_base_does_not_drift(program: str) -> None:
    """HuBERT with a batch norm in its positional convolution: its running statistics are as they were."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    convs = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    torch.manual_seed(0)
    base = t.HubertModel(t.HubertConfig(**small, **convs, conv_pos_batch_norm=True))
    assert any(isinstance(m, nn.BatchNorm1d) for m in base.modules())
    found = state_hash(base)
    model = _model(program, "hubert-encoder", base)
    for _ in range(2):
        train_step(model)
    assert state_hash(base) == found


@pytest.mark.parametrize("family", ["wav2vec2-classifier", "whisper-seq2seq", "moonshine-seq2seq", "ast-classifier"])
@pytest.mark.parametrize("program", EVERY)
def test_s6_hooks_are_in_force_when_a_checkpoint_is_recomputed(program: str, family: str) -> None:
    """Gradients with the layers checkpointed are bit-equal to those without; and layers are recomputed."""
    model = _wake(_model(program, family, **EVERY[program]))
    model.train()
    found = []
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable()
        calls = _count_calls(model)
        loss_of(model, AUDIO_ROWS).backward()
        found.append(({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}, calls[0]))
    (plain, once), (again, twice) = found
    assert twice > once
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name


def _count_calls(model: ReprogramModel) -> list[int]:
    """How often the last layer's first linear part runs."""
    count = [0]
    layer = model.backbone.layers[1][-1]
    part = next(m for m in layer.modules() if isinstance(m, nn.Linear))
    part.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count
