"""Which of the contract's tests run at every change."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_reprogram.registry import method_class


# Programs of sound are many: at every change they go through one base of each way in and out (a spectrogram or a wave;
# classes, letters, words), and two of text refuse them; through all of them in `make test-slow`.
QUICK = {"llama", "bert-classifier", "whisper-seq2seq", "wav2vec2-ctc", "ast-classifier"}


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
        if program is None or given["family"] in QUICK:
            continue
        if not acts_on_text(program):
            item.add_marker(pytest.mark.slow)
