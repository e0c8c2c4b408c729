"""Classes of a base for labels by their names."""

from __future__ import annotations

import pytest

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, UsageError
from hf_reprogram.testing import ROWS, tiny


NAMES = {0: "good_day", 1: "bad", 2: "my phone", 3: "a book", 4: "terrible", 5: "love", 6: "fine"}


def named() -> object:
    base = tiny("bert-classifier")[0]
    base.config.id2label = {i: NAMES[i] for i in range(base.config.num_labels)}
    return base


def test_a_name_finds_itself_and_every_class_goes_once() -> None:
    base = named()
    found = hr.labels_by_name(base, ["bad", "good day", "love"], *tiny("bert-encoder"), per_label=2)
    for label, own in (("bad", "bad"), ("good day", "good_day"), ("love", "love")):
        assert own in found.groups[label]
    used = [name for group in found.groups.values() for name in group]
    assert len(used) == len(set(used)) == 6
    model = hr.get_reprogram_model(base, hr.ReprogramConfig(mapping=found), tiny("bert-classifier")[1])
    model.fit_mapping([row["text"] for row in ROWS])
    assert model.predict("so good")[0]["label"] in ("bad", "good day", "love")


def test_what_is_refused() -> None:
    plain = tiny("bert-classifier")[0]
    with pytest.raises(UsageError, match="have no names.*method='frequency'"):
        hr.labels_by_name(plain, ["a", "b"], *tiny("bert-encoder"))
    with pytest.raises(ConfigError, match="and there are 7"):
        hr.labels_by_name(named(), ["a", "b"], *tiny("bert-encoder"), per_label=4)
    with pytest.raises(ConfigError, match="each once"):
        hr.labels_by_name(named(), ["a", "a"], *tiny("bert-encoder"))


def test_no_labels_and_an_encoder_that_gives_no_states() -> None:
    base, _ = tiny("bert-classifier")
    base.config.id2label = {0: "good", 1: "bad", 2: "day"}
    with pytest.raises(ConfigError, match="names, each once"):
        hr.labels_by_name(base, [], *tiny("bert-encoder"))
    with pytest.raises(UsageError, match="AutoModel.from_pretrained"):
        hr.labels_by_name(base, ["a", "b"], *tiny("llama"))
