"""Which of the contract's tests run at every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_reprogram.registry import method_class


# Programs are many. At every change those of sound go through one base of each way in and out (a spectrogram or a
# wave; classes, letters, words), and two of text refuse them; those of embedded words through one base of each way in
# (positions that are learned or not, scaled vectors, vectors smaller than the states, a decoder, ids read inside).
# `prompt` and `none` go through all, with the mappings that read a base in ways of their own; other mappings share
# those ways, and go through the same few bases, with `prompt` and `none` alone. The rest is for `make test-slow`.
QUICK = {"llama", "bert-classifier", "whisper-seq2seq", "wav2vec2-ctc", "ast-classifier"}
WAYS = {"linear", "verbalizer", "labels", "tokens", "transcript", "ctc", "none"}
QUICK_TEXT = QUICK | {"gpt2", "gemma2", "albert", "t5", "esm"}


def acts_on_text(program: str) -> bool:
    """Whether a program changes words rather than sound."""
    return method_class("program", program).accepts not in ("wave", "features", "latent")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        values = getattr(item, "callspec", None)
        if here not in item.path.parents or values is None:
            continue
        given = values.params
        program = given.get("program", given.get("name") if given.get("kind") == "program" else None)
        mapping = given.get("mapping", given.get("name") if given.get("kind") == "mapping" else None)
        met = program is not None and mapping is not None and program not in ("prompt", "none")
        if mapping is not None and mapping not in WAYS and (met or given["family"] not in QUICK_TEXT):
            item.add_marker(pytest.mark.slow)
        if program is None or method_class("program", program).accepts in ("tokens", "any"):
            continue
        if given["family"] not in (QUICK_TEXT if acts_on_text(program) else QUICK):
            item.add_marker(pytest.mark.slow)
