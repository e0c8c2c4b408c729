"""A converted checkpoint fits its model, and loads in float32 although it lies in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from assets.asset import AssetError
from assets.weights import save_checkpoint
from safetensors.torch import load_file
from transformers import AutoModelForSpeechSeq2Seq, MoonshineConfig, MoonshineForConditionalGeneration


def config() -> MoonshineConfig:
    return MoonshineConfig(
        vocab_size=12, hidden_size=16, intermediate_size=24, encoder_num_hidden_layers=1, decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2, decoder_num_attention_heads=2, encoder_num_key_value_heads=2,
        decoder_num_key_value_heads=2,
    )  # fmt: skip


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    model = MoonshineForConditionalGeneration(config())
    return {name: tensor for name, tensor in model.state_dict().items() if name != "proj_out.weight"}  # tied


def test_half_on_the_disk_and_whole_in_memory(tensors: dict[str, torch.Tensor], tmp_path: Path):
    save_checkpoint(MoonshineForConditionalGeneration, config(), tensors, tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    model, report = AutoModelForSpeechSeq2Seq.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.float32
    name = "model.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(model.state_dict()[name], tensors[name].half().float())


@pytest.mark.parametrize("harm", ["missing", "shape", "extra"])
def test_a_checkpoint_that_does_not_fit_is_not_written(tensors: dict[str, torch.Tensor], tmp_path: Path, harm: str):
    name = "model.encoder.conv1.weight"
    if harm == "missing":
        del tensors[name]
    elif harm == "shape":
        tensors[name] = tensors[name][:3]
    else:
        name = "model.encoder.conv9.weight"
        tensors[name] = torch.zeros(2)
    with pytest.raises(AssetError, match=f"1 tensors do not fit, the first is {name}.*Fix: install the tested set"):
        save_checkpoint(MoonshineForConditionalGeneration, config(), tensors, tmp_path)
    assert not list(tmp_path.iterdir())
