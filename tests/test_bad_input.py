"""Bad input where a program is put on a base: one table of what is refused, with which words, at no cost.

Every row is tried twice: on a bare base (`get_reprogram_model`) and beside a program that works (`add_adapter`). Base,
flags, the caller's config, programs and predictions are afterwards what they were.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import pytest

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, ReprogramError, TemplateError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LABELS, build, flags, program_config, state_hash, tiny
from tests.artefact_kit import WORDS, check, linear, nothing_changes, prompt, words


Case = tuple[dict[str, Any], type[ReprogramError], str]


# What is given, the error, and what its text must say, in order.
CONFIGS: dict[str, Case] = {
    # Methods and options
    "unknown program": (
        {"program": "promt"},
        ConfigError,
        "ReprogramConfig.program ... 'promt' ... did you mean 'prompt'",
    ),
    "unknown mapping": (
        {"mapping": "verbaliser"},
        ConfigError,
        "ReprogramConfig.mapping ... did you mean 'verbalizer'",
    ),
    "unknown option": (
        prompt(lenght=3),
        ConfigError,
        "PromptConfig.lenght ... no such option ... Known: 'bottleneck', 'init'",
    ),
    "unknown choice": (prompt(init="word"), ConfigError, "PromptConfig.init ... 'word' ... did you mean 'words'"),
    "out of range": (
        linear(inverse_penalty=0),
        ConfigError,
        "LinearConfig.inverse_penalty ... 0 is out ... from 1e-06 to",
    ),
    "of another type": (
        linear(inverse_penalty="1"),
        ConfigError,
        "LinearConfig.inverse_penalty ... '1' is a str ... float",
    ),
    "a truth for a number": (linear(inverse_penalty=True), ConfigError, "True is a bool ... float"),
    # Templates
    "no answer slot": (
        prompt("{prompt:3} {text}"),
        ConfigError,
        "PromptConfig.template ... no {answer} ... verbalizer reads ... It was{answer}",
    ),
    "no answer for a state": (
        {"program": {"type": "none"}, "mapping": {"type": "linear"}, "labels": LABELS},
        ConfigError,
        "NoneConfig.template ... no {answer} ... linear reads",
    ),
    "two answer slots": (
        prompt("{prompt:3} {text}{answer}{answer}"),
        TemplateError,
        "PromptConfig.template ... 2 answer slots ... one {answer}",
    ),
    "an answer that is not last": (
        prompt("{prompt:3} It was{answer}: {text}"),
        ConfigError,
        "PromptConfig.template ... not last ... causal ... move {answer} to the end",
    ),
    "an answer before a full stop": (
        prompt("{prompt:3} {text} it was{answer}."),
        ConfigError,
        "not last ... move {answer} to the end",
    ),
    "no slots": (
        prompt("{text}{answer}"),
        TemplateError,
        "PromptConfig.template ... no slots ... {prompt:N} ... the program none",
    ),
    "no column": (
        prompt("{prompt:3}{answer}"),
        TemplateError,
        "no column ... every row would look the same ... {text}",
    ),
    "no template": (prompt(None), ConfigError, "PromptConfig.template ... None ... str"),
    "a field that is none": (prompt("{prompt:3} {my text}{answer}"), TemplateError, "'{my text}' ... {column}"),
    "a lonely brace": (prompt("{prompt:3} {text}{answer"), TemplateError, "lonely '{' ... {{ for a brace"),
    "too many slots": (prompt("{prompt:5000} {text}{answer}"), TemplateError, "'{prompt:5000}' ... from 1 to 4096"),
    # Found when it is added: in the collator it would take all other programs down with it.
    "no room for text": (
        prompt("{prompt:63} {text}{answer}"),
        ConfigError,
        "leave no room for text ... 64 positions ... fewer slots",
    ),
    # Starts
    "words to start from that are none": (
        prompt(init_text=" "),
        ConfigError,
        "PromptConfig.init_text ... at least one word",
    ),
    "one text too few": (
        prompt(init_text=["so good"]),
        ConfigError,
        "PromptConfig.init_text ... 1 texts ... group of slots: 2",
    ),
    "no text to start from": (prompt(init="words"), ConfigError, "PromptConfig.init_text ... init is 'words'"),
    # Found while it starts: nothing half-made may stay behind.
    "no mask to start from": (
        prompt(init="mask"),
        ConfigError,
        "PromptConfig.init ... no mask token ... words, vocab or normal",
    ),
    # Label words
    "one class": (words({"a": [" good"]}), ConfigError, "VerbalizerConfig.words ... at least two classes"),
    "a word for a list": (
        words({"a": " good", "b": " bad"}),
        ConfigError,
        "VerbalizerConfig.words['a'] ... ' good' is a str ... list[str]",
    ),
    "no words": (words({"a": [], "b": [" bad"]}), ConfigError, "VerbalizerConfig.words['a'] ... at least one word"),
    "a first token that two classes share": (
        words({"a": [" good", " bad"], "b": [" bad"]}),
        ConfigError,
        "VerbalizerConfig.words['b'] ... ' bad' is token ... class 'a' has too ... differ between classes",
    ),
    "a word of two tokens": (
        words({"a": [" very good"], "b": [" bad"]}, rows="trained"),
        ConfigError,
        "VerbalizerConfig.rows ... 'trained' ... several tokens ... words of one token",
    ),
    "an unknown word": (
        words({"a": [" zebra"], "b": [" bad"]}),
        ConfigError,
        "VerbalizerConfig.words['a'] ... unknown to the tokenizer ... commoner word",
    ),
    # Calibration
    "a domain without texts": (
        words(WORDS, calibration="domain"),
        ConfigError,
        "VerbalizerConfig.calibration_texts ... texts of the domain ... calibration='contextual'",
    ),
    "an empty calibration text": (
        words(WORDS, calibration="contextual", calibration_texts=[" "]),
        ConfigError,
        "VerbalizerConfig.calibration_texts",
    ),
    # Labels
    "labels and words that disagree": (
        {**words(WORDS), "labels": ["negative", "positiv"]},
        ConfigError,
        "ReprogramConfig.labels ... disagree on ['positiv', 'positive'] ... did you mean",
    ),
    "a label twice": (
        {**linear(), "labels": ["a", "b", "a"]},
        ConfigError,
        "ReprogramConfig.labels ... a name stands twice",
    ),
    "no labels": (
        {**linear(), "labels": None},
        ConfigError,
        "ReprogramConfig.labels ... the names of the target labels",
    ),
    "words where none are read": (
        linear(words=[" good"]),
        ConfigError,
        "LinearConfig.words ... on='state' ... words where on='rows'",
    ),
    "no words where they are read": (linear(on="rows"), ConfigError, "LinearConfig.words ... [] with on='rows'"),
    "an unknown word to read": (
        linear(on="rows", words=[" zebra"]),
        ConfigError,
        "LinearConfig.words ... unknown to the tokenizer",
    ),
    "a start that its solver has not": (
        linear(start="ridge"),
        ConfigError,
        "LinearConfig.start ... solver='gradient'",
    ),
    "an unknown problem": (
        {"problem_type": "single_label"},
        ConfigError,
        "ReprogramConfig.problem_type ... did you mean 'single_label_classification'",
    ),
}


@pytest.mark.parametrize("case", CONFIGS.values(), ids=CONFIGS)
class TestConfigs:
    def test_on_a_bare_base(self, case: Case) -> None:
        given, error, says = case
        base, tokenizer = tiny("llama")
        base.train()
        base.get_input_embeddings().weight.requires_grad_(False)
        found, numbers, values = flags(base), state_hash(base), copy.deepcopy(given)
        with pytest.raises(error) as raised:
            get_reprogram_model(base, ReprogramConfig(**given), processing_class=tokenizer)
        check(raised.value, says)
        assert flags(base) == found and state_hash(base) == numbers and given == values

    def test_beside_a_program_that_works(self, case: Case) -> None:
        given, error, says = case
        model = build(program_config("prompt"), "llama")
        with nothing_changes(model):
            with pytest.raises(error) as raised:
                model.add_adapter("bad", ReprogramConfig(**given))
            check(raised.value, says)


def test_the_spelling_that_is_one_token_is_named() -> None:
    """The commonest mistake: the word without its space."""
    base, tokenizer = tiny("llama")
    tokenizer.add_tokens([" wonderful"])
    base.resize_token_embeddings(len(tokenizer))
    config = ReprogramConfig(**words({"a": ["wonderful"], "b": [" bad"]}))
    with pytest.raises(ConfigError, match="Fix: ' wonderful' is one token"):
        get_reprogram_model(base, config, tokenizer)


@pytest.mark.parametrize("config", [None, "prompt", {"program": "prompt"}, 7, peft.LoraConfig(), ReprogramConfig])
def test_what_is_no_config(config: Any) -> None:
    base, tokenizer = tiny("llama")
    found = flags(base)
    with pytest.raises(ConfigError, match="config: .*Expected a ReprogramConfig"):
        get_reprogram_model(base, config, tokenizer)
    assert flags(base) == found
    model = build(program_config("prompt"), "llama")
    with nothing_changes(model), pytest.raises(ConfigError, match="a ReprogramConfig"):
        model.add_adapter("bad", config)


def test_a_config_resolved_for_one_base_is_resolved_anew_for_another() -> None:
    """Label words mean what this tokenizer calls them, whatever another one did."""
    first = build(ReprogramConfig(**words(WORDS)), "llama").peft_config["default"]
    base, tokenizer = tiny("bert")
    model = get_reprogram_model(base, first, tokenizer)
    expected = {k: [tokenizer(w, add_special_tokens=False)["input_ids"][0] for w in v] for k, v in WORDS.items()}
    assert model.peft_config["default"].mapping.ids == expected
