"""Every program and every mapping, on every family, through every check of `hf_reprogram.testing`."""

from __future__ import annotations

import pytest

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.registry import method_class, names
from hf_reprogram.testing import (
    AUDIO_FAMILIES,
    CHECKS,
    FAMILIES,
    SLOW_FAMILIES,
    check_mapping,
    check_program,
    config_of,
    mapping_config,
    refused,
    suits,
)
from tests.contract.conftest import acts_on_text


CASES = [("program", name) for name in names("program")] + [("mapping", name) for name in names("mapping")]


@pytest.mark.parametrize("family", [*FAMILIES, *AUDIO_FAMILIES])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("kind", "name"), CASES, ids=["-".join(case) for case in CASES])
def test_contract(kind: str, name: str, check: str, family: str, request: pytest.FixtureRequest) -> None:
    config = config_of(kind, name, family)
    if suits(config, family):
        reason = method_class(kind, name).xfail.get(check)
        if reason:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
        CHECKS[check](config, family)
    elif check == next(iter(CHECKS)):  # once is enough
        refused(config, family)


# What the same mapping reads of another base than that of its example.
OTHERWISE = {"prototype of states": {"type": "prototype", "on": "state", "pool": "mean"}}


@pytest.mark.parametrize("family", ["llama", "t5", "bert-encoder", "hubert-encoder", "ast-classifier"])
@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("way", OTHERWISE)
def test_ways_beside_the_example(way: str, check: str, family: str) -> None:
    config = mapping_config(OTHERWISE[way]["type"], family)
    config = ReprogramConfig.from_dict({**config.to_dict(), "mapping": OTHERWISE[way]})
    CHECKS[check](config, family)


@pytest.mark.slow
@pytest.mark.parametrize("family", SLOW_FAMILIES)
@pytest.mark.parametrize("name", [name for name in names("program") if acts_on_text(name)])
def test_programs_on_more_families(name: str, family: str) -> None:
    check_program(name, family)


@pytest.mark.slow
@pytest.mark.parametrize("family", SLOW_FAMILIES)
@pytest.mark.parametrize("name", names("mapping"))
def test_mappings_on_more_families(name: str, family: str) -> None:
    check_mapping(name, family)
