"""ReprogramConfig: plain JSON both ways, every part in any form, and nothing that does not fit."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

import hf_reprogram as hr
from hf_reprogram.config import FORMAT_VERSION, ReprogramConfig
from hf_reprogram.errors import ConfigError, TemplateError
from hf_reprogram.registry import method_class, names, options_class
from hf_reprogram.testing import LABELS, LANGUAGE_MODELS, build, mapping_config, program_config, suits


WORDS = {"negative": [" bad"], "positive": [" good"]}
CONFIGS = {f"program-{n}": program_config(n) for n in names("program")}
CONFIGS |= {f"mapping-{n}": mapping_config(n) for n in names("mapping")}


class TestJson:
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_there_and_back_is_the_identity(self, config: ReprogramConfig) -> None:
        text = json.dumps(config.to_dict(), allow_nan=False)
        assert ReprogramConfig.from_dict(json.loads(text)) == config
        assert json.dumps(ReprogramConfig.from_dict(json.loads(text)).to_dict()) == text

    @pytest.mark.parametrize(
        ("config", "family"),
        [
            pytest.param(config, family, id=f"{name}-{family}")
            for name, config in CONFIGS.items()
            for family in LANGUAGE_MODELS
            if suits(config, family)
        ],
    )
    def test_resolved_too(self, config: ReprogramConfig, family: str) -> None:
        resolved = build(config, family).peft_config["default"]
        assert ReprogramConfig.from_dict(json.loads(json.dumps(resolved.to_dict()))) == resolved

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_copies_and_pickles(self, config: ReprogramConfig) -> None:
        assert copy.deepcopy(config) == config == pickle.loads(pickle.dumps(config))

    def test_what_it_is_made_from_is_not_shared(self) -> None:
        values = ReprogramConfig(mapping={"type": "verbalizer", "words": WORDS}).to_dict()
        before = copy.deepcopy(values)
        config = ReprogramConfig.from_dict(values)
        config.mapping.words["negative"].append(" poor")
        config.labels.append("x")
        assert values == before

    def test_a_part_and_its_dict_and_its_name_are_one(self) -> None:
        options = hr.PromptConfig()
        forms = (
            options,
            {"type": "prompt"},
            "prompt",
            [options],
            ["prompt"],
            ({"type": "prompt"},),
            options.to_dict(),
        )
        assert {json.dumps(ReprogramConfig(program=form).to_dict()) for form in forms} == {
            json.dumps(ReprogramConfig(program=options).to_dict())
        }

    def test_nothing_is_none_by_name(self) -> None:
        config = ReprogramConfig()
        assert (config.program.type, config.mapping.type) == ("none", "none")
        assert (config.labels, config.format_version) == (None, FORMAT_VERSION)


class TestUnknownFields:
    def test_in_json(self) -> None:
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.progam: no such field.*did you mean 'program'"):
            ReprogramConfig.from_dict({"progam": "none"})

    def test_as_a_keyword(self) -> None:
        """Python's TypeError would name no nearest field."""
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.maping.*did you mean 'mapping'"):
            ReprogramConfig(maping="none")

    def test_only_fields_that_are_the_user_s_are_named(self) -> None:
        """Not PEFT's, and not what is filled in."""
        own = "'canvas', 'class_weight', 'labels', 'mapping', 'problem_type', 'program'"
        with pytest.raises(ConfigError, match=f"no such field. Fix: Known: {own}$"):
            ReprogramConfig(xyz=1)

    def test_through_pefts_own_way(self) -> None:
        """N6: PEFT drops unknown keys with a warning."""
        with pytest.raises(ConfigError, match="no such field"):
            ReprogramConfig.from_peft_type(peft_type="REPROGRAM", rank=8)

    def test_of_a_part(self) -> None:
        with pytest.raises(ConfigError, match=r"PromptConfig\.templat: no such option.*did you mean 'template'"):
            ReprogramConfig(program={"type": "prompt", "templat": "{text}"})


class TestParts:
    @pytest.mark.parametrize(
        "value", [7, True, {}, {"template": "x"}, object(), [[]], [7], "promt", ["prompt", "nope"]]
    )
    def test_that_are_none(self, value: Any) -> None:
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.program") as error:
            ReprogramConfig(program=value)
        assert error.value.fix

    def test_in_the_wrong_place(self) -> None:
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.mapping: PromptConfig is a program"):
            ReprogramConfig(mapping=hr.PromptConfig())

    def test_an_empty_list(self) -> None:
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.program: an empty list"):
            ReprogramConfig(program=[])

    @pytest.mark.parametrize("programs", [["prompt", "prompt"], ["prompt", "none"], ["none", "none"]])
    def test_two_of_one_stage(self, programs: list[str]) -> None:
        """N21: two templates, or what one gives the next does not take."""
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.program"):
            ReprogramConfig(program=programs)

    def test_changed_after_they_were_checked(self) -> None:
        """Parts are checked again when they are used: this one would be read as "mean"."""
        from hf_reprogram.model import get_reprogram_model
        from hf_reprogram.testing import tiny

        base, tokenizer = tiny("llama")
        config = ReprogramConfig(program="prompt", mapping={"type": "verbalizer", "words": WORDS})
        config.mapping.reduce = "meen"
        with pytest.raises(ConfigError, match=r"VerbalizerConfig\.reduce.*did you mean 'mean'"):
            get_reprogram_model(base, config, tokenizer)


class TestLabels:
    def test_come_from_the_words_in_their_order(self) -> None:
        assert ReprogramConfig(mapping={"type": "verbalizer", "words": WORDS}).labels == LABELS

    def test_may_give_the_words_another_order(self) -> None:
        config = ReprogramConfig(mapping={"type": "verbalizer", "words": WORDS}, labels=LABELS[::-1])
        assert config.labels == LABELS[::-1]

    @pytest.mark.parametrize(
        ("labels", "says"),
        [
            (["negative", "positiv"], r"disagree on \['positiv', 'positive'\].*did you mean"),
            (["negative"], r"disagree on \['positive'\]"),
            (["negative", "positive", "neutral"], r"disagree on \['neutral'\]"),
            (["negative", "positive", "positive"], "a name stands twice"),
            ("negative", "a list of label names"),
            ([0, 1], "a list of label names"),
            (["negative", ""], "a list of label names"),
            (["negative", None], "a list of label names"),
            ({"negative": 0, "positive": 1}, "a list of label names"),
            (7, "a list of label names"),
        ],
    )
    def test_that_do_not_fit(self, labels: Any, says: str) -> None:
        with pytest.raises(ConfigError, match=rf"ReprogramConfig\.labels: .*{says}"):
            ReprogramConfig(mapping={"type": "verbalizer", "words": WORDS}, labels=labels)

    @pytest.mark.parametrize("labels", [[], ["only"]])
    def test_fewer_than_two(self, labels: list[str]) -> None:
        """Also with a mapping that has no words of its own."""
        with pytest.raises(ConfigError, match=r"ReprogramConfig\.labels.*at least two"):
            ReprogramConfig(mapping="linear", labels=labels)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("problem_type", "regresion", "problem_type"),
        ("problem_type", None, "problem_type"),
        ("problem_type", ["single_label_classification"], "problem_type"),
        ("format_version", 2, "update hf-reprogram"),
        ("format_version", "1", "format_version"),
        ("format_version", True, "format_version"),
        ("target_modules", ["q_proj"], "programs sit outside the base"),
        ("embedding_rms", 0.0, "a positive number"),
        ("embedding_rms", float("nan"), "a positive number"),
        ("embedding_rms", "0.1", "a positive number"),
        ("fingerprint", "abc", "fingerprint"),
        ("training", [], "training"),
        ("base_auto_class", 7, "base_auto_class"),
    ],
)
def test_other_fields(field: str, value: Any, says: str) -> None:
    """Fields of the wrong kind are our errors, and True is no version 1."""
    with pytest.raises(ConfigError, match=says):
        ReprogramConfig(**{field: value})


@pytest.mark.parametrize("name", [n for k in ("program", "mapping") for n in names(k)])
def test_the_public_names_of_options(name: str) -> None:
    kind = "program" if name in names("program") else "mapping"
    cls = options_class(kind, name)
    assert getattr(hr, cls.__name__) is cls is method_class(kind, name).Options


def test_an_unknown_public_name_names_the_nearest() -> None:
    """Classes of options are public names too."""
    with pytest.raises(AttributeError, match="did you mean 'PromptConfig'"):
        _ = hr.PromtConfig


def test_a_template_error_is_told_at_the_config() -> None:
    with pytest.raises(TemplateError, match=r"PromptConfig\.template.*2 answer slots"):
        ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text}{answer}{answer}"})
