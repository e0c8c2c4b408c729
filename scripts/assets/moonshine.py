"""Moonshine tiny out of an ONNX Runtime file: a flatbuffer of 8-bit weights.

The package is the vendor's own runtime, which holds the weights for itself. Its `.ort` files are flatbuffers of the
schema in onnxruntime's `ort.fbs`: the numbers below are positions of fields there. Matrices are stored as unsigned
bytes with one scale and one zero point each; all else is float32.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .asset import Say, copy_member
from .weights import save_checkpoint


if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ELEMENTS = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2"}  # TensorDataType → numpy
QUANTISED = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")
ATTENTION_OR_MLP = r"layers\.\d+/(?:self_attn/\w+_proj|encoder_attn/\w+_proj|mlp/fc\d)"


@dataclass(frozen=True)
class Table:
    """One table of a flatbuffer: `place` is where it begins. Fields that are absent read as empty or 0."""

    data: bytes
    place: int

    def _number(self, kind: str, place: int) -> int:
        return struct.unpack_from("<" + kind, self.data, place)[0]

    def _field(self, index: int) -> int | None:
        """Where a field's own bytes are: a table begins with the way back to its list of field offsets."""
        offsets = self.place - self._number("i", self.place)
        known = (self._number("H", offsets) - 4) // 2
        offset = self._number("H", offsets + 4 + 2 * index) if index < known else 0
        return self.place + offset if offset else None

    def _target(self, place: int) -> int:
        return place + self._number("I", place)

    def _vector(self, index: int) -> tuple[int, int]:
        """(number of elements, where the first lies)."""
        place = self._field(index)
        if place is None:
            return 0, 0
        start = self._target(place)
        return self._number("I", start), start + 4

    def number(self, index: int) -> int:
        place = self._field(index)
        return 0 if place is None else self._number("i", place)

    def table(self, index: int) -> Table | None:
        place = self._field(index)
        return None if place is None else Table(self.data, self._target(place))

    def tables(self, index: int) -> Iterator[Table]:
        count, start = self._vector(index)
        for i in range(count):
            yield Table(self.data, self._target(start + 4 * i))

    def raw(self, index: int) -> bytes:
        count, start = self._vector(index)
        return self.data[start : start + count]

    def text(self, index: int) -> str:
        return self.raw(index).decode()

    def texts(self, index: int) -> list[str]:
        count, start = self._vector(index)
        places = [self._target(start + 4 * i) for i in range(count)]
        return [self.data[p + 4 : p + 4 + self._number("I", p)].decode() for p in places]

    def sizes(self, index: int) -> tuple[int, ...]:
        count, start = self._vector(index)
        return struct.unpack_from(f"<{count}q", self.data, start)


@dataclass
class Graph:
    """Constants by name, and nodes as (operator, inputs, outputs), those of inner graphs included."""

    constants: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[tuple[str, list[str], list[str]]] = field(default_factory=list)


def read_graph(data: bytes) -> Graph:
    """The graph of an `.ort` file: InferenceSession.model.graph."""
    graph = Graph()
    session = Table(data, struct.unpack_from("<I", data)[0])
    _collect(session.table(1).table(7), graph)
    return graph


def _collect(table: Table, graph: Graph) -> None:
    import numpy as np

    for constant in table.tables(0):
        kind, data = ELEMENTS.get(constant.number(3)), constant.raw(4)
        if kind and data:
            graph.constants[constant.text(0)] = np.frombuffer(data, kind).reshape(constant.sizes(2))
    for node in table.tables(2):
        graph.nodes.append((node.text(5), node.texts(8), node.texts(9)))
        for attribute in node.tables(10):
            inner = attribute.table(7)  # the branches of an If
            if inner is not None:
                _collect(inner, graph)


def dequantised(graph: Graph, stem: str) -> np.ndarray:
    """(bytes - zero point) × scale."""
    codes, zero, scale = (graph.constants[stem + part] for part in ("_quantized", "_zero_point", "_scale"))
    return (codes.astype("float32") - zero.astype("float32")) * scale.astype("float32")


def matrices(graph: Graph) -> Iterator[tuple[str, np.ndarray]]:
    """(name of the product, weight (out, in)) of every product with a matrix of bytes.

    The matrices themselves have no telling names; what a product gives is named after the module that made it.
    """
    for operator, inputs, outputs in graph.nodes:
        codes = [i for i in inputs if i.endswith("_quantized") and i in graph.constants]
        if operator in QUANTISED and codes and graph.constants[codes[0]].ndim == 2:
            yield outputs[0], dequantised(graph, codes[0].removesuffix("_quantized")).T


def _encoder(graph: Graph) -> dict[str, np.ndarray]:
    found = {}
    for name, value in graph.constants.items():
        name = name.replace("_add_tensor", "")
        if re.match(r"(conv\d|layers\.\d+|layer_norm)\b", name) and name.endswith((".weight", ".bias")):
            found[name] = value
    for operator, inputs, outputs in graph.nodes:
        if outputs[0].startswith("/groupnorm/") and operator in ("Mul", "Add") and inputs[1] in graph.constants:
            part = "weight" if operator == "Mul" else "bias"
            found[f"groupnorm.{part}"] = graph.constants[inputs[1]].reshape(-1)
    for name, weight in matrices(graph):
        module = re.match(rf"/({ATTENTION_OR_MLP})/", name)
        found[f"{module[1].replace('/', '.')}.weight"] = weight
    return {f"model.encoder.{name}": value for name, value in found.items()}


def _decoder(graph: Graph) -> dict[str, np.ndarray]:
    found = {}
    for name, value in graph.constants.items():
        plain = re.fullmatch(r"(model\.decoder\..+\.(?:weight|bias))_merged_0", name)
        if plain:
            found[plain[1]] = value
    embedding = "model.decoder.embed_tokens.weight"
    found[embedding] = dequantised(graph, f"{embedding}_merged_0")  # the output layer is the same, once more
    for name, weight in matrices(graph):
        module = re.match(rf"/model/decoder/({ATTENTION_OR_MLP})/", name)
        if module:
            found[f"model.decoder.{module[1].replace('/', '.')}.weight"] = weight
    return found


def lay_out_moonshine(package: zipfile.ZipFile, tokenizer: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """8-bit ONNX Runtime files → a checkpoint in half precision, with tokenizer and extractor."""
    import torch
    from transformers import (
        GenerationConfig,
        MoonshineConfig,
        MoonshineForConditionalGeneration,
        PreTrainedTokenizerFast,
        Wav2Vec2FeatureExtractor,
    )

    say("converting 8-bit weights to safetensors")
    root = "moonshine_voice/assets/tiny-en/"
    arrays = {
        **_encoder(read_graph(package.read(root + "encoder_model.ort"))),
        **_decoder(read_graph(package.read(root + "decoder_model_merged.ort"))),
    }
    tensors: dict[str, Tensor] = {name: torch.tensor(array) for name, array in arrays.items()}
    save_checkpoint(MoonshineForConditionalGeneration, MoonshineConfig(), tensors, folder)

    longest = 194  # tokens: 30 seconds of speech
    GenerationConfig(
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, pad_token_id=2, max_length=longest
    ).save_pretrained(folder)
    copy_member(tokenizer, "moonshine_onnx/assets/tokenizer.json", folder / "tokenizer.json")
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="</s>", model_max_length=longest, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    # Padding matters to this model: the mask must come with it.
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    copy_member(package, "moonshine_voice-0.1.0.dist-info/licenses/LICENSE", folder / "LICENSE.txt")
