"""What every test shares: no Hub, one thread, real assets where they are."""

from __future__ import annotations

import os
import tempfile


# Set before anything imports huggingface_hub or datasets, which read them at import.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
os.environ["HF_DATASETS_CACHE"] = os.path.join(tempfile.gettempdir(), f"hf_reprogram-datasets-{os.getpid()}")

import atexit
import shutil
from pathlib import Path

import pytest
import torch


torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["HF_DATASETS_CACHE"], ignore_errors=True)
SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models beside the checkout; tests that want it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the small real models of {SHARED}, which are not part of the repository")
    return SHARED


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M, fetched by the Makefile."""
    return _asset("smollm2-135m")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of MiniLM-L6, fetched by the Makefile."""
    return _asset("minilm-l6")


@pytest.fixture(scope="session")
def mistral_tokenizer() -> Path:
    """The folder of Mistral's SentencePiece tokenizer, fetched by the Makefile."""
    return _asset("mistral-tokenizer")


@pytest.fixture(scope="session")
def crepe() -> Path:
    """The folder of CREPE tiny, fetched by the Makefile."""
    return _asset("crepe-tiny")


@pytest.fixture(scope="session")
def ge2e() -> Path:
    """The folder of the GE2E speaker encoder, fetched for the slow tests."""
    return _asset("ge2e")


@pytest.fixture(scope="session")
def moonshine() -> Path:
    """The folder of Moonshine tiny, fetched for the slow tests."""
    return _asset("moonshine-tiny")


@pytest.fixture(scope="session")
def whisper() -> Path:
    """The folder of Whisper tiny.en, fetched for the slow tests."""
    return _asset("whisper-tiny.en")


@pytest.fixture(scope="session")
def attention_rnn(shared: Path) -> Path:
    """The folder of the keyword spotter, made from what lies in `shared`."""
    import fetch_models

    return fetch_models.fetch("attention-rnn", quiet=True)


def _asset(name: str) -> Path:
    import fetch_models

    if not fetch_models.is_ready(name):
        pytest.skip(f"{name} is not in {fetch_models.cache_dir()}: run scripts/fetch_models.py {name}")
    return fetch_models.asset_path(name)
