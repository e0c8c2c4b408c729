"""The reader of ONNX Runtime files, on a flatbuffer made by hand; Moonshine itself where it is fetched."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from assets.moonshine import dequantised, matrices, read_graph


class Writer:
    """Flatbuffers of what Python has: dict → table by field number, list → vector, str and bytes, int, sizes."""

    def __init__(self) -> None:
        self.data = bytearray(4)

    def root(self, fields: dict) -> bytes:
        self._point(0, self.write(fields))
        return bytes(self.data)

    def write(self, value) -> int:
        if isinstance(value, dict):
            return self._table(value)
        if isinstance(value, str | bytes):
            raw = value.encode() if isinstance(value, str) else value
            return self._append(struct.pack("<I", len(raw)) + raw)
        if isinstance(value, tuple):  # the sizes of a tensor, 64 bits each
            return self._append(struct.pack(f"<I{len(value)}q", len(value), *value))
        place = self._append(struct.pack("<I", len(value)) + bytes(4 * len(value)))
        for i, one in enumerate(value):
            self._point(place + 4 + 4 * i, self.write(one))
        return place

    def _table(self, fields: dict) -> int:
        numbers = range(max(fields) + 1)
        order = sorted(fields)
        offsets = [4 + 4 * order.index(n) if n in fields else 0 for n in numbers]
        known = self._append(struct.pack(f"<{len(offsets) + 2}H", 4 + 2 * len(offsets), 4 + 4 * len(order), *offsets))
        place = self._append(bytes(4 + 4 * len(order)))
        struct.pack_into("<i", self.data, place, place - known)
        for n in order:
            if isinstance(fields[n], int):
                struct.pack_into("<i", self.data, place + offsets[n], fields[n])
            else:
                self._point(place + offsets[n], self.write(fields[n]))
        return place

    def _append(self, raw: bytes) -> int:
        self.data += raw
        return len(self.data) - len(raw)

    def _point(self, place: int, target: int) -> None:
        struct.pack_into("<I", self.data, place, target - place)


def constant(name: str, kind: int, values: np.ndarray) -> dict:
    return {0: name, 2: values.shape, 3: kind, 4: values.tobytes()}


def node(operator: str, inputs: list[str], outputs: list[str], *inner: dict) -> dict:
    return {5: operator, 8: inputs, 9: outputs, 10: [{0: "branch", 7: graph} for graph in inner]}


def ort(graph: dict) -> bytes:
    return Writer().root({0: "1.20", 1: {7: graph}})


CODES = np.array([[10, 12, 9], [11, 10, 14]], dtype="u1")  # (in, out), zero point 10, scale 0.5
MATRIX = [
    constant("w_quantized", 2, CODES),
    constant("w_scale", 1, np.array(0.5, dtype="<f4")),
    constant("w_zero_point", 2, np.array(10, dtype="u1")),
]


def test_constants_and_nodes_of_inner_graphs_are_found():
    inner = {0: [constant("inside", 1, np.array([1.5, -2.0], dtype="<f4"))], 2: [node("Add", ["inside"], ["sum"])]}
    graph = read_graph(ort({0: MATRIX, 2: [node("If", ["x"], ["y"], inner)]}))
    assert graph.nodes == [("If", ["x"], ["y"]), ("Add", ["inside"], ["sum"])]
    assert graph.constants["inside"].tolist() == [1.5, -2.0]
    assert graph.constants["w_quantized"].tolist() == CODES.tolist()
    assert graph.constants["w_scale"].shape == ()


def test_a_kind_of_element_that_weights_never_have_is_passed_over():
    graph = read_graph(ort({0: [constant("words", 8, np.array([1], dtype="u1"))]}))
    assert graph.constants == {} and graph.nodes == []


def test_bytes_become_numbers():
    """Above the zero point first: unsigned bytes must not wrap around below it."""
    graph = read_graph(ort({0: MATRIX}))
    assert dequantised(graph, "w").tolist() == [[0.0, 1.0, -0.5], [0.5, 0.0, 2.0]]


def test_matrices_are_named_after_their_products_and_lie_as_torch_has_them():
    products = [
        node("DynamicQuantizeMatMul", ["x", "w_quantized", "w_scale", "w_zero_point"], ["/layers.0/mlp/fc1/MatMul"]),
        node("MatMul", ["x", "w_quantized"], ["not a quantised product"]),
    ]
    ((name, weight),) = matrices(read_graph(ort({0: MATRIX, 2: products})))
    assert name == "/layers.0/mlp/fc1/MatMul"
    assert weight.tolist() == [[0.0, 0.5], [1.0, 0.0], [-0.5, 2.0]]  # (out, in)


@pytest.mark.slow
def test_moonshine_gives_its_check_values(moonshine: Path):
    """assets-speech.md 3.2: a rising tone of two seconds."""
    from transformers import AutoFeatureExtractor, AutoModelForSpeechSeq2Seq, AutoTokenizer

    model, report = AutoModelForSpeechSeq2Seq.from_pretrained(
        moonshine, local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.float32 and sum(p.numel() for p in model.parameters()) == 27_092_736

    time = torch.arange(32000, dtype=torch.float64) / 16000
    wave = 0.1 * torch.sin(2 * torch.pi * (200 * time + 400 * time**2))
    extractor = AutoFeatureExtractor.from_pretrained(moonshine, local_files_only=True)
    columns = extractor(wave.float().numpy(), sampling_rate=16000, return_tensors="pt")
    assert set(columns) == {"input_values", "attention_mask"}
    with torch.no_grad():
        output = model.eval()(**columns, decoder_input_ids=torch.tensor([[1]]))
    state, top = output.encoder_last_hidden_state, output.logits[0, -1].topk(5)
    assert state.shape == (1, 82, 288)
    assert (state.mean().item(), state.std().item()) == pytest.approx((0.0060, 0.50421), abs=2e-4)
    assert top.indices.tolist() == [3374, 887, 15043, 1939, 6439]
    torch.testing.assert_close(top.values, torch.tensor([11.819, 11.133, 11.055, 10.790, 10.504]), atol=5e-3, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(moonshine, local_files_only=True)
    assert tokenizer.convert_tokens_to_ids(["▁yes", "▁Yes"]) == [4874, 3869]
