"""The reader of CTranslate2 files, on a file made by hand; Whisper itself where it is fetched."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from assets.asset import AssetError
from assets.whisper import _linear, read_arrays, renamed


def text(value: str) -> bytes:
    raw = value.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def ct2_file(arrays: dict[str, tuple[int, np.ndarray]], aliases: dict[str, str], version: int = 6) -> bytes:
    data = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, (kind, array) in arrays.items():
        data += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", kind, array.nbytes) + array.tobytes()
    data += struct.pack("<I", len(aliases))
    return data + b"".join(text(alias) + text(name) for alias, name in aliases.items())


def test_arrays_and_their_further_names_are_read():
    halves, whole = np.array([[1.5, -2.0]], dtype="<f2"), np.array(7, dtype="<i4")
    arrays = read_arrays(ct2_file({"a/weight": (4, halves), "n": (3, whole)}, {"b/weight": "a/weight"}))
    assert list(arrays) == ["a/weight", "n", "b/weight"]
    assert arrays["a/weight"].tolist() == arrays["b/weight"].tolist() == [[1.5, -2.0]]
    assert arrays["a/weight"].dtype == np.float16 and arrays["n"] == 7


def test_another_version_of_the_format_is_refused():
    with pytest.raises(AssetError, match="version 5; only version 6"):
        read_arrays(ct2_file({}, {}, version=5))


def test_query_key_and_value_are_cut_apart_and_keys_have_no_bias():
    arrays = {"s/weight": np.arange(12).reshape(6, 2), "s/bias": np.arange(6)}
    parts = dict(_linear(arrays, "s", "t.", ("q_proj", "k_proj", "v_proj")))
    assert set(parts) == {"t.q_proj.weight", "t.q_proj.bias", "t.k_proj.weight", "t.v_proj.weight", "t.v_proj.bias"}
    assert parts["t.k_proj.weight"].tolist() == [[4, 5], [6, 7]]
    assert parts["t.v_proj.bias"].tolist() == [4, 5]


def test_what_the_file_pads_the_vocabulary_with_is_cut():
    class Everything(dict):
        """Any array that is asked for; an encoder and a decoder of four layers each."""

        def __missing__(self, name: str) -> np.ndarray:
            return np.zeros((6, 2) if name.endswith("weight") else 6)

    tensors = dict(renamed(Everything({"decoder/embeddings/weight": np.zeros((8, 2))}), vocabulary=5))
    assert tensors["model.decoder.embed_tokens.weight"].shape == (5, 2)
    assert "model.encoder.layer_norm.weight" in tensors


@pytest.mark.slow
def test_whisper_gives_its_check_values(whisper: Path):
    """assets-speech.md 3.3: a rising tone of two seconds."""
    from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq

    model, report = AutoModelForSpeechSeq2Seq.from_pretrained(whisper, local_files_only=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.float32 and sum(p.numel() for p in model.parameters()) == 37_760_256

    time = torch.arange(32000, dtype=torch.float64) / 16000
    wave = 0.1 * torch.sin(2 * torch.pi * (200 * time + 400 * time**2))
    extractor = AutoFeatureExtractor.from_pretrained(whisper, local_files_only=True)
    columns = extractor(wave.float().numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        output = model.eval()(**columns, decoder_input_ids=torch.tensor([[50257]]))
    state, top = output.encoder_last_hidden_state, output.logits[0, -1].topk(5)
    assert state.shape == (1, 1500, 384)
    assert (state.mean().item(), state.std().item()) == pytest.approx((-0.03204, 1.06668), abs=2e-4)
    assert top.indices.tolist() == [50361, 50362, 50363, 50367, 50365]
    torch.testing.assert_close(top.values, torch.tensor([23.344, 22.080, 21.063, 15.563, 15.533]), atol=5e-3, rtol=0)
