"""Programs inside the encoder: formulas by hand at the place where they act, sizes, starts, and who refuses them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_reprogram.batch import Batch, Reading
from hf_reprogram.canvas import CanvasConfig
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.programs.base import Program
from hf_reprogram.registry import method_class
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, program_config, suits, tiny
from hf_reprogram.testing.audio import AUDIO_KIN
from hf_reprogram.testing.helpers import loss_of, train_step


NAMES = [f"latent_{name}" for name in ("bridge", "deep", "film", "insert", "overwrite", "prefix", "shift")]
REFUSED = (("latent_prefix", "wavlm-classifier"), ("latent_deep", "sew-classifier"))
LAYERED = [family for family in AUDIO_FAMILIES if family != "attentionrnn-classifier"]


def program_of(name: str, width: int, depth: int, **options: Any) -> Program:
    """A latent program for an encoder of such a size; the stand-in for its backbone knows no more than sizes."""

    def run(batch: Batch, reading: Reading) -> None:
        for _, hook in batch.hooks:
            hook(nn.Identity(), (batch.input_values.repeat(1, width)[:, : 50 * width].reshape(1, 50, width),), {})

    backbone = SimpleNamespace(
        run=run, facts=SimpleNamespace(canvas=480_000, rate=16_000), device="cpu",
        layers=("layers", [None] * depth), width=width, lead=0, base=SimpleNamespace(config=SimpleNamespace()),
        can_add_to_attention=lambda samples: True, positions=lambda samples: samples // 320,
        layer_index=lambda i: i % (depth + 1),
        site=lambda name: SimpleNamespace(forward=lambda hidden_states, attention_mask: None),
    )  # fmt: skip
    cls = method_class("program", name)
    config = cls.Options(**options)
    config.resolve(CanvasConfig(samples=16_000), backbone, Reading("classes"))
    program = cls(config, backbone, 1.0)
    program.initialise(backbone, torch.Generator().manual_seed(0))
    program.stand_in = backbone
    return program


def hooks_of(program: Program) -> dict[str, Any]:
    """What a program would install, by site."""
    return dict(program(Batch(), program.stand_in).hooks)


def through(hook: Any, hidden: Tensor) -> Tensor:
    """Hidden states as a hook before a layer changes them."""
    return hook(nn.Identity(), (hidden,), {})[0][0]


SIZES: list[tuple[str, dict[str, Any], tuple[int, int], int]] = [
    ("latent_insert", {"length": 8}, (768, 12), 8 * 768),
    ("latent_overwrite", {"length": 5}, (768, 12), 5 * 768),
    ("latent_deep", {"length": 8}, (768, 12), 12 * 8 * 768),
    ("latent_shift", {}, (768, 12), 768),
    ("latent_shift", {"per_frame": True}, (768, 12), 50 * 768),
    ("latent_film", {}, (768, 12), 12 * 2 * 768),
    ("latent_film", {"target": "output"}, (768, 12), 2 * 768),
    ("latent_film", {"target": "output", "source_layer": 8}, (768, 12), 235_680),
    ("latent_prefix", {"length": 8}, (768, 12), 12 * (2 * 8 * 768 + 1)),
    ("latent_bridge", {"layers": [0]}, (1024, 24), 135_232),
    ("latent_bridge", {"layers": [3]}, (768, 12), 101_696),
]


@pytest.mark.parametrize(("name", "options", "sizes", "numbers"), SIZES)
def test_as_many_numbers_as_published(name: str, options: dict, sizes: tuple[int, int], numbers: int) -> None:
    """S§3 and S§7.2."""
    assert sum(p.numel() for p in program_of(name, *sizes, **options).parameters()) == numbers


@pytest.mark.parametrize("name", NAMES)
def test_acts_on_every_family_with_layers(name: str) -> None:
    """Classification, CTC, seq2seq, bare encoders: all that have layers. Their kin: see below."""
    suited = {family for family in AUDIO_FAMILIES if suits(program_config(name, family), family)}
    assert suited == set(LAYERED)


@pytest.mark.parametrize(("name", "family"), REFUSED)
def test_refused_where_it_would_train_nothing_or_the_wrong_frames(name: str, family: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*{type(tiny(family)[0]).__name__}"):
        _model({"type": name}, family)


@pytest.mark.parametrize("family", AUDIO_KIN)
@pytest.mark.parametrize("name", NAMES)
def test_learns_through_the_kin(name: str, family: str) -> None:
    """Bases beside those of the contract: a second step reaches every parameter, and zero starts change nothing."""
    if (name, family) in REFUSED:
        return
    model = _model({"type": name, **method_class("program", name).example}, family)
    columns = model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS])
    with torch.no_grad():
        fresh = model.backbone.base_output(
            model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
        )
        plain = model.backbone.base_output(model.reprogrammed.batch(**columns))
    effect = (fresh.logits - plain.logits).abs().max().item()
    assert (effect == 0.0) == model.active_programs()[0].zero_effect_at_start, effect
    assert fresh.logits.shape == plain.logits.shape and fresh.logits.isfinite().all()
    train_step(model)
    loss_of(model, AUDIO_ROWS).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.active_programs()[0].parameters())


def _hidden() -> Tensor:
    return torch.arange(2 * 5 * 2, dtype=torch.float32).reshape(2, 5, 2)


def test_insert_by_hand() -> None:
    """Three frames before five, a mask as long, and only the five come out."""
    program, hidden = program_of("latent_insert", 2, 1, length=3), _hidden()
    hooks = hooks_of(program)
    encoder = nn.Module()
    encoder.forward = lambda hidden_states, attention_mask: None
    mask = torch.tensor([[True] * 5, [True] * 4 + [False]])
    args, given = hooks["encoder"](encoder, (hidden,), {"attention_mask": mask})
    assert args == () and given["attention_mask"].tolist() == [[True] * 8, [True] * 7 + [False]]
    assert torch.equal(given["hidden_states"][:, 3:], hidden)
    assert torch.equal(given["hidden_states"][1, :3], program.prompt)
    out = hooks["encoder:after"](encoder, (), {}, given["hidden_states"])
    assert torch.equal(out, hidden)


@pytest.mark.parametrize("family", ["hubert-encoder", "whisper-seq2seq", "moonshine-seq2seq", "ast-classifier"])
@pytest.mark.parametrize("name", ["latent_insert", "latent_overwrite", "latent_deep"])
def test_frames_begin_as_what_the_base_makes_of_noise(name: str, family: str) -> None:
    """Frames of no sound took half of Moonshine's accuracy. The noise is that of the seed."""
    model = _model({"type": name, "length": 3}, family)
    backbone, found = model.backbone, next(model.active_programs()[0].parameters())
    inner = (
        backbone.site("encoder") if name == "latent_insert" and family == "hubert-encoder" else backbone.layers[1][0]
    )
    seen: list[Tensor] = []
    handle = inner.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    wave = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    backbone.run(Batch(input_values=wave), Reading("state", pool="first"))
    handle.remove()
    first = found[0] if name == "latent_deep" else found
    assert torch.allclose(first, seen[0][0, backbone.lead : backbone.lead + 3], atol=1e-6)
    assert not torch.allclose(first[0], first[1], atol=1e-3)


def test_frames_of_noise_are_repeated_where_they_are_too_few() -> None:
    prompt = program_of("latent_insert", 2, 1, length=120).prompt
    assert torch.equal(prompt[50:100], prompt[:50]) and torch.equal(prompt[100:], prompt[:20])
    assert prompt.std().item() == pytest.approx(0.1, rel=0.2)


def test_deep_by_hand() -> None:
    """Before layer 1 the first two frames are p_1, whatever layer 0 made of p_0."""
    program, hidden = program_of("latent_deep", 2, 2, length=2), _hidden()
    made = through(hooks_of(program)["layer:1"], hidden)
    assert torch.equal(made[0, :2], program.prompts[1]) and torch.equal(made[:, 2:], hidden[:, 2:])


def test_overwrite_by_hand() -> None:
    """Behind one position of the base's own, two of its frames are replaced."""
    program, hidden = program_of("latent_overwrite", 2, 1, length=2), _hidden()
    program.stand_in.lead = 1
    made = through(hooks_of(program)["layer:0"], hidden)
    assert torch.equal(made[1, 1:3], program.prompt)
    assert torch.equal(made[:, [0, 3, 4]], hidden[:, [0, 3, 4]])


def test_overwrite_of_all_there_is() -> None:
    with pytest.raises(ConfigError, match="LatentOverwriteConfig.length: 50 of the 50 frames"):
        program_of("latent_overwrite", 2, 1, length=50)


def test_shift_by_hand() -> None:
    program, hidden = program_of("latent_shift", 2, 3, layers=[-1]), _hidden()
    hooks = hooks_of(program)
    assert list(hooks) == ["layer:2"] and torch.equal(through(hooks["layer:2"], hidden), hidden)
    with torch.no_grad():
        program.shift.copy_(torch.tensor([[[1.0, -2.0]]]))
    assert torch.equal(
        through(hooks_of(program)["layer:2"], hidden) - hidden, torch.tensor([1.0, -2.0]).expand(2, 5, 2)
    )


def test_film_by_hand() -> None:
    """(1 + 2) h + 1 at the output, wherever the output says its states are."""
    program, hidden = program_of("latent_film", 2, 3, target="output"), _hidden()
    with torch.no_grad():
        program.gamma.fill_(2.0)
        program.beta.fill_(1.0)
    hook = hooks_of(program)["output:after"]
    assert torch.equal(hook(nn.Identity(), (), {}, hidden), 3 * hidden + 1)
    first, other = hook(nn.Identity(), (), {}, (hidden, "bias"))
    assert torch.equal(first, 3 * hidden + 1) and other == "bias"


@pytest.mark.parametrize("residual", [True, False])
def test_film_from_a_middle_layer_by_hand(residual: bool) -> None:
    """The net's last bias is (gamma, gamma, beta, beta) = (2, 2, 1, 1), and nothing else: h -> (1 +) 2 h + 1."""
    program, hidden = program_of("latent_film", 2, 3, target="output", source_layer=1, residual=residual), _hidden()
    with torch.no_grad():
        program.outer.zero_()
        program.outer_bias.copy_(torch.tensor([2.0, 2.0, 1.0, 1.0]))
    hooks = hooks_of(program)
    assert torch.equal(hooks["layer:1:after"](nn.Identity(), (), {}, hidden), hidden)
    made = hooks["output:after"](nn.Identity(), (), {}, hidden)
    assert torch.equal(made, (3 if residual else 2) * hidden + 1)


def test_film_listens_to_each_clip() -> None:
    """Scale and shift of a row depend on that row's middle states alone."""
    program = program_of("latent_film", 2, 3, target="output", source_layer=1, residual=False)
    middle = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))

    def said(states: Tensor) -> Tensor:
        hooks = hooks_of(program)
        hooks["layer:1:after"](nn.Identity(), (), {}, states)
        return hooks["output:after"](nn.Identity(), (), {}, torch.ones(len(states), 1, 2))

    together = said(middle)
    assert not torch.allclose(together[0], together[1])
    torch.testing.assert_close(torch.cat([said(middle[:1]), said(middle[1:])]), together)


def test_bridge_by_hand() -> None:
    """Width 2: the norm of (1, -1) is itself; down takes the first, the convolution sums three frames, up gives
    gelu(3) inside and gelu(2) at the ends, to the second number only."""
    program = program_of("latent_bridge", 2, 1, rank=1, kernel=3)
    hidden = torch.tensor([1.0, -1.0]).expand(1, 4, 2)
    assert torch.equal(through(hooks_of(program)["layer:0"], hidden), hidden)
    with torch.no_grad():
        program.down.copy_(torch.tensor([[[1.0, 0.0]]]))
        program.conv.fill_(1.0)
        program.up.copy_(torch.tensor([[[0.0], [1.0]]]))
        program.down_bias.zero_()
        program.conv_bias.zero_()
    added = through(hooks_of(program)["layer:0"], hidden) - hidden
    gelu = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in (2.0, 3.0)]
    torch.testing.assert_close(added[0, :, 1], torch.tensor([gelu[0], gelu[1], gelu[1], gelu[0]]), atol=1e-4, rtol=0)
    assert (added[0, :, 0] == 0).all()


def test_prefix_by_hand() -> None:
    """Two heads of one number; keys (ln 3, 0) and (0, 0) for query 1 weigh 3/4 and 1/4 in the first head, half and
    half in the second; values (4, 4) and (0, 0); a gate of atanh(1/2)."""
    program = program_of("latent_prefix", 2, 1, length=2)
    with torch.no_grad():
        program.gate.fill_(math.atanh(0.5))
        program.keys.copy_(torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]]]))
        program.values.copy_(torch.tensor([[[4.0, 4.0], [0.0, 0.0]]]))
    added = hooks_of(program)["attention:0"](torch.ones(1, 2, 1, 1), 1.0)  # (batch, heads, time, size)
    torch.testing.assert_close(added, torch.tensor([[[[1.5], [1.0]]]]))  # (batch, time, heads, size)
    wide = hooks_of(program)["attention:0"](torch.ones(1, 2, 1, 3), 1.0)  # heads filled up with zeros
    assert wide.shape == (1, 1, 2, 3) and (wide[..., 1:] == 0).all()


@pytest.mark.parametrize(("options", "where"), [
    ({"type": "latent_shift", "layers": [2]}, "LatentShiftConfig.layers: .*with 2 layers"),
    ({"type": "latent_shift", "layers": []}, "LatentShiftConfig.layers"),
    ({"type": "latent_film", "source_layer": 1}, "LatentFilmConfig.source_layer"),
    ({"type": "latent_film", "residual": False}, "LatentFilmConfig.residual"),
    ({"type": "latent_film", "target": "output", "source_layer": 7}, "LatentFilmConfig.source_layer.*2 layers"),
    ({"type": "latent_bridge", "kernel": 4}, "LatentBridgeConfig.kernel.*odd"),
])  # fmt: skip
def test_bad_options(options: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        _model(options)


def _model(program: dict[str, Any], family: str = "wav2vec2-classifier", **mapping: Any) -> Any:
    mapping = {"type": "linear", "on": "state", "pool": "mean", "solver": "gradient", **mapping}
    base, processor = tiny(family)
    config = ReprogramConfig(
        program=program, mapping=mapping, labels=["negative", "positive"], canvas={"samples": 3200}
    )
    return get_reprogram_model(base, config, processor)


def test_no_such_place() -> None:
    model = _model({"type": "latent_shift"})
    with pytest.raises(UsageError, match="acts at 'layer:9'"):
        model.backbone.site("layer:9")


@pytest.mark.parametrize("family", ["wav2vec2-classifier", "moonshine-seq2seq", "whisper-seq2seq"])
def test_masked_frames_stay_masked(family: str) -> None:
    """Where a base is told of padding, a longer mask lets the frames put in be seen, and the padding not."""
    model = _model({"type": "latent_insert", "length": 2}, family)
    hook = dict(model.active_programs()[0].hooks(model.backbone)).get("layer:0")
    if hook is None:
        return
    layer = model.backbone.site("layer:0")
    mask = torch.tensor([[[[True, False], [True, False]]]])
    args, given = hook(layer, (torch.zeros(1, 2, 32),), {"attention_mask": mask})
    assert args[0].shape == (1, 4, 32) and given["attention_mask"][0, 0, 3].tolist() == [True, True, True, False]


@pytest.mark.parametrize("name", ["latent_insert", "latent_prefix"])
def test_a_seq2seq_base_writes_through_the_program(name: str) -> None:
    """`generate` has the program in force too, and leaves nothing behind."""
    model = _model({"type": name}, "whisper-seq2seq")
    with torch.no_grad():
        for p in model.active_programs()[0].parameters():
            p.fill_(3.0)
    columns = model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS[:2]])
    greedy = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    plain = model.backbone.generate(model.reprogrammed.batch(**columns), **greedy).scores[-1]
    changed = model.reprogrammed.generate(columns, **greedy).scores[-1]
    again = model.backbone.generate(model.reprogrammed.batch(**columns), **greedy).scores[-1]
    assert torch.equal(plain, again) and not torch.allclose(plain, changed)
