"""Every program with every mapping on every family: the README's table, cell by cell."""

from __future__ import annotations

import pytest

from hf_reprogram.registry import names
from hf_reprogram.testing import (
    AUDIO_FAMILIES,
    FAMILIES,
    SLOW_FAMILIES,
    build,
    logits_of,
    pair_config,
    refused,
    suits,
)
from hf_reprogram.testing.helpers import loss_of, rows_of
from tests.contract.conftest import acts_on_text


@pytest.mark.parametrize("family", [*FAMILIES, *AUDIO_FAMILIES])
@pytest.mark.parametrize("mapping", names("mapping"))
@pytest.mark.parametrize("program", names("program"))
def test_a_pair_runs_or_is_refused(program: str, mapping: str, family: str) -> None:
    config = pair_config(program, mapping, family)
    if not suits(config, family):
        refused(config, family)
        return
    model = build(config, family)
    learns = [p for p in model.parameters() if p.requires_grad]
    if learns:
        loss_of(model, rows_of(model)).backward()
        assert all(p.grad is not None for p in learns)
    assert logits_of(model, rows_of(model)).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("family", SLOW_FAMILIES)
@pytest.mark.parametrize("program", [name for name in names("program") if acts_on_text(name)])
def test_pairs_on_more_families(program: str, family: str) -> None:
    for mapping in names("mapping"):
        test_a_pair_runs_or_is_refused(program, mapping, family)
