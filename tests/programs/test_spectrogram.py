"""Programs of the spectrogram: sizes as published, formulas by hand, starts, and the canvas that they are made for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.batch import Batch, Reading
from hf_reprogram.canvas import CanvasConfig
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.programs.base import Program
from hf_reprogram.registry import method_class
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, logits_of, program_config, suits, tiny
from hf_reprogram.testing.helpers import build, loss_of, train_step


def spectrogram_program(name: str, mels: int, frames: int, seed: int = 0, **options: Any) -> Program:
    """A program of the spectrogram for a base of so many mels and frames."""
    backbone = SimpleNamespace(
        feature_shape=lambda samples: (mels, frames), base=None, facts=SimpleNamespace(longest=frames * 160)
    )
    cls = method_class("program", name)
    config = cls.Options(**options)
    config.resolve(CanvasConfig(samples=frames * 160), backbone, Reading("classes"))
    program = cls(config, backbone, 1.0)
    program.initialise(backbone, torch.Generator().manual_seed(seed))
    return program


def through(program: Program, features: Tensor, held: Tensor | None = None) -> Tensor:
    """What a program makes of (batch, mels, frames); `held` (batch, frames) says which frames hear the clip."""
    backbone = SimpleNamespace(signal_frames=lambda batch: held, facts=SimpleNamespace(longest=1))
    return program(Batch(input_features=features), backbone).input_features


def size(program: Program) -> int:
    """Numbers that train."""
    return sum(p.numel() for p in program.parameters())


NAMES = ("mel_prompt", "spec_additive", "spec_border", "spec_conv", "spec_smm")
GRADIENT_READ = {"type": "linear", "on": "classes", "solver": "gradient"}
SIZES: list[tuple[str, dict[str, Any], tuple[int, int], int]] = [
    ("spec_additive", {}, (80, 200), 16_000),
    ("spec_additive", {}, (80, 3000), 240_000),
    ("spec_additive", {}, (128, 1024), 131_072),
    ("spec_additive", {"rank": 4}, (80, 200), 4 * 280),
    ("spec_border", {"border": 8}, (80, 200), 2 * 8 * 200),
    ("spec_border", {"border": 8, "outside": True}, (80, 200), 16_000),
    ("spec_smm", {}, (80, 200), 40_961),
    ("spec_conv", {}, (80, 200), 208_655),
    ("spec_conv", {}, (128, 1024), 234_623),
    ("spec_conv", {"channels": 140}, (80, 100), 222_680),
    ("mel_prompt", {}, (80, 3000), 2_560),
]


@pytest.mark.parametrize(("name", "options", "shape", "numbers"), SIZES)
def test_as_many_numbers_as_published(name: str, options: dict, shape: tuple[int, int], numbers: int) -> None:
    """S§3 and S§7.3."""
    assert size(spectrogram_program(name, *shape, **options)) == numbers


@pytest.mark.parametrize("name", NAMES)
def test_acts_on_every_base_that_hears_a_spectrogram(name: str) -> None:
    suited = {family for family in AUDIO_FAMILIES if suits(program_config(name, family), family)}
    assert suited == {"whisper-seq2seq", "whisper-classifier", "ast-classifier", "wav2vec2bert-classifier"}


def _features(mels: int = 4, frames: int = 6) -> torch.Tensor:
    return torch.arange(2 * mels * frames, dtype=torch.float32).reshape(2, mels, frames)


def test_additive_by_hand() -> None:
    program, features = spectrogram_program("spec_additive", 4, 6), _features()
    assert torch.equal(through(program, features), features)
    with torch.no_grad():
        program.theta[1, 2] = 3.0
    assert (through(program, features) - features)[:, 1, 2].tolist() == [3.0, 3.0]


def test_factorised_by_hand() -> None:
    """u = (1, 0, 0, 2), v = (1, 1, 0, ...): row 3 gets 2 in its first two frames. A fresh one changes nothing."""
    program, features = spectrogram_program("spec_additive", 4, 6, rank=1), _features()
    assert torch.equal(through(program, features), features) and program.v.abs().min() > 0
    with torch.no_grad():
        program.u.copy_(torch.tensor([[1.0], [0.0], [0.0], [2.0]]))
        program.v.copy_(torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0], [0.0]]))
    assert (through(program, features) - features)[0].sum(1).tolist() == [2.0, 0.0, 0.0, 4.0]


def test_keep_range_by_hand() -> None:
    """Row 0 has 0 to 23: what would leave that is held there."""
    program, features = spectrogram_program("spec_additive", 4, 6, keep_range=True), _features()
    with torch.no_grad():
        program.theta[:] = -100.0
        program.theta[0, 0] = 100.0
    held = through(program, features)
    assert held[0].min() == 0.0 and held[0, 0, 0] == 23.0 and held[1].min() == 24.0


def test_border_by_hand() -> None:
    """One row at each edge; with `outside`, the middle rows of frames 4 and 5, which hear nothing of row 0."""
    features = _features()
    held = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    for outside, middle in ((False, [0.0] * 6), (True, [0.0] * 4 + [1.0] * 2)):
        program = spectrogram_program("spec_border", 4, 6, border=1, outside=outside)
        assert torch.equal(through(program, features, held), features)
        with torch.no_grad():
            for parameter in program.parameters():
                parameter.fill_(1.0)
        added = through(program, features, held) - features
        assert added[0].tolist() == [[1.0] * 6, middle, middle, [1.0] * 6]
        assert added[1, 1].tolist() == [0.0] * 6


def test_a_border_wider_than_the_spectrogram() -> None:
    with pytest.raises(ConfigError, match=r"SpecBorderConfig.border.*at most 2"):
        spectrogram_program("spec_border", 4, 6, border=3)


def test_smm_masks_patches_of_eight() -> None:
    """One value per patch, the last ones cut; f' = f + theta * mask."""
    program = spectrogram_program("spec_smm", 12, 20)
    features = torch.randn(2, 12, 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(through(program, features), features)
    mask = program.mask(features)
    assert mask.shape == (2, 12, 20)
    for top, left in ((0, 0), (8, 0), (0, 8), (8, 16)):
        patch = mask[0, top : top + 8, left : left + 8]
        assert (patch == patch[0, 0]).all()
    assert len(mask[0].unique()) == 6
    with torch.no_grad():
        program.theta.fill_(2.0)
    torch.testing.assert_close(through(program, features) - features, 2 * mask)


def test_smm_mask_starts_near_one() -> None:
    """S§7.3: the default start of the mask is near 0, where theta gets a gradient of 2e-7; so the last bias is 1."""
    features = torch.randn(8, 80, 200, generator=torch.Generator().manual_seed(0))
    program = spectrogram_program("spec_smm", 80, 200)
    assert program.biases[-1].tolist() == [1.0] and 0.5 < program.mask(features).mean() < 1.5
    with torch.no_grad():
        program.biases[-1].zero_()
    assert program.mask(features).mean().abs() < 0.2


def test_conv_by_hand() -> None:
    """Two mels, one channel: a layer norm over one channel gives its offset, 3; the last convolution adds its frames
    but for what is beyond the edges, and the linear layer doubles that for the second mel."""
    program = spectrogram_program("spec_conv", 2, 4, channels=1)
    features = _features(2, 4)
    assert torch.equal(through(program, features), features)
    with torch.no_grad():
        program.stack.offsets[2].fill_(3.0)
        program.stack.kernels[3].fill_(1.0)
        program.stack.biases[3].fill_(0.0)
        program.outer[1] = 2.0
    added = through(program, features) - features
    assert added[0].tolist() == [[0.0] * 4, [12.0, 18.0, 18.0, 12.0]]
    program.options.residual = False
    assert through(program, features)[1].tolist() == added[0].tolist()


def test_parity_conv_replaces_the_spectrogram() -> None:
    program = spectrogram_program("spec_conv", 2, 4, channels=3, residual=False)
    assert program.outer.abs().min() > 0
    assert not torch.allclose(through(program, _features(2, 4)), _features(2, 4))


@pytest.mark.parametrize(("name", "options"), [("spec_smm", {}), ("spec_conv", {}), ("spec_additive", {"rank": 2})])
def test_zero_starts_wake_with_the_first_step(name: str, options: dict) -> None:
    """What multiplies a zero learns from the second step on; all of it."""
    model = build(_config(name, **options), "whisper-classifier")
    train_step(model)
    loss_of(model, AUDIO_ROWS).backward()
    for parameter_name, parameter in model.named_parameters():
        assert not parameter.requires_grad or parameter.grad.abs().sum() > 0, parameter_name


def _config(name: str, samples: int | None = None, **options: Any) -> ReprogramConfig:
    return ReprogramConfig(
        program={"type": name, **options}, mapping=GRADIENT_READ, labels=["negative", "positive"],
        canvas={"samples": samples},
    )  # fmt: skip


@pytest.mark.parametrize(("family", "samples"), [("whisper-classifier", 4800), ("wav2vec2bert-classifier", 4800)])
def test_two_canvases_on_one_base(family: str, samples: int, tmp_path: Path) -> None:
    """Each program is as long as its own adapter's canvas, also after loading."""
    model = build(_config("spec_additive"), family)
    model.add_adapter("short", _config("spec_additive", samples))
    shapes = [
        tuple(model.peft_config[n].program.to_dict()[k] for k in ("mels", "frames")) for n in ("default", "short")
    ]
    assert shapes[0][1] > shapes[1][1]
    model.set_adapter("short")
    train_step(model)
    assert tuple(model.active_programs()[0].theta.shape) == shapes[1]
    expected = logits_of(model, AUDIO_ROWS)
    model.save_pretrained(tmp_path, selected_adapters=["short"])
    again = AutoReprogramModel.from_pretrained(tmp_path, *tiny(family))
    assert torch.equal(logits_of(again, AUDIO_ROWS), expected)


def test_a_size_of_the_user_s_own() -> None:
    with pytest.raises(
        ConfigError, match=r"SpecAdditiveConfig.frames: 7, and a .*Whisper.* hears 16000 samples as 100"
    ):
        get_reprogram_model(
            tiny("whisper-classifier")[0], _config("spec_additive", frames=7), tiny("whisper-classifier")[1]
        )


def test_another_spectrogram_than_configured() -> None:
    program: Program = spectrogram_program("spec_additive", 4, 6)
    with pytest.raises(UsageError, match="4 mels and 6 frames"):
        through(program, _features(4, 7))


def test_mel_prompt_by_hand() -> None:
    """Two frames before, the last two dropped where the base's length is fixed."""
    program, features = spectrogram_program("mel_prompt", 4, 6, length=2), _features()
    with torch.no_grad():
        program.theta.fill_(9.0)
    made = through(program, features, torch.tensor([[True] * 4 + [False] * 2] * 2))
    assert made.shape == features.shape and (made[..., :2] == 9).all()
    assert torch.equal(made[..., 2:], features[..., :4])


def test_mel_prompt_drops_no_signal() -> None:
    program, held = spectrogram_program("mel_prompt", 4, 6, length=2), torch.ones(2, 6, dtype=torch.bool)
    held[0, 4:] = False
    with pytest.raises(DataError, match=r"row 1 of the batch.*last 2 of 6 frames"):
        through(program, _features(), held)
    with pytest.raises(ConfigError, match="MelPromptConfig.length.*less than 6"):
        spectrogram_program("mel_prompt", 4, 6, length=6)


def test_mel_prompt_lengthens_what_may_grow() -> None:
    """Wav2Vec2-BERT hears two more positions, and loses none."""
    model = build(program_config("mel_prompt", "wav2vec2bert-classifier"), "wav2vec2bert-classifier")
    batch = model.reprogrammed.batch(**_columns(model))
    made = model.reprogrammed.program(batch, model.backbone)
    plain = model.backbone.bring(batch, "features")
    assert torch.equal(made.input_features[..., 2:], plain.input_features)
    assert made.attention_mask.shape == (len(batch), made.input_features.shape[2])


def _columns(model: Any) -> dict[str, Any]:
    return model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS])


@pytest.mark.parametrize("family", ["whisper-classifier", "ast-classifier", "wav2vec2bert-classifier"])
def test_frames_that_hear_the_clip(family: str) -> None:
    """A frame counts as the clip's where and only where changing the clip changes it, before any normalisation."""
    model = build(program_config("spec_additive", family), family)
    backbone = model.backbone
    samples = model.peft_config["default"].canvas.samples
    wave = 1e-3 * torch.randn(1, samples, generator=torch.Generator().manual_seed(0))
    here = torch.zeros(1, samples, dtype=torch.bool)
    here[0, 1000:1500] = True
    loud = torch.where(here, wave * 1000, wave)
    batch = backbone.bring(model.reprogrammed.batch(input_values=loud, signal_mask=here), "features")
    heard = backbone.signal_frames(batch)[0]
    hop, before, length = backbone.frontend.span
    expected = [t for t in range(len(heard)) if t * hop - before < 1500 and t * hop - before + length > 1000]
    assert heard.nonzero().flatten().tolist() == expected
    level = batch.input_features[0].mean(0)  # (frames,)
    assert level[heard].mean() > level[~heard].max()
