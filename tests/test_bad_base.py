"""Bad bases, tokenizers and adapter names: refused with a clear error, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
import transformers

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import BaseModelError, ConfigError, ReprogramError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import build, flags, program_config, tiny
from tests.artefact_kit import linear, nothing_changes, prompt


def _lora() -> Any:
    return peft.get_peft_model(tiny("llama")[0], peft.LoraConfig(target_modules=["q_proj"]))


def _sized(cls: type, config: Callable[..., Any], **more: Any) -> Any:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, **more}
    return cls(config(**sizes))


def _t5_encoder() -> Any:
    return transformers.T5EncoderModel(transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=48, num_layers=1))


def _ours() -> Any:
    return build(program_config("prompt"), "llama")


BASES: dict[str, tuple[Callable[[], Any], str]] = {
    "a name": (lambda: "HuggingFaceTB/SmolLM2-135M", r"'HuggingFaceTB/SmolLM2-135M' is a str.*PreTrainedModel"),
    "nothing": (lambda: None, "None is a NoneType.*PreTrainedModel"),
    "a class": (lambda: transformers.LlamaForCausalLM, "is a type.*PreTrainedModel"),
    "a torch module": (lambda: torch.nn.Linear(2, 2), "is a Linear.*PreTrainedModel"),
    "a model of ours": (_ours, "a bare transformers model.*add_adapter"),
    "the inside of a model of ours": (lambda: _ours().reprogrammed, "is a Reprogrammed"),
    "a model with LoRA": (_lora, "is a PeftModel.*a bare transformers model.*merge_and_unload"),
    "a family that no row knows and that computes something else": (
        lambda: _sized(transformers.FNetForMaskedLM, transformers.FNetConfig, intermediate_size=32),
        "FNetForMaskedLM is of the family 'fnet', which has no row in FAMILIES; by body=.* relative differences",
    ),
    "a model that sees": (
        lambda: transformers.ViTModel(transformers.ViTConfig(hidden_size=32, num_hidden_layers=1)),
        "ViTModel takes pixel_values. Expected a model that reads or hears",
    ),
    "a head that nothing reads": (
        lambda: _sized(transformers.BertForTokenClassification, transformers.BertConfig, intermediate_size=32),
        "BertForTokenClassification has no head that we can read.*AutoModelForCausalLM",
    ),
}


def _classifier() -> Any:
    return _sized(transformers.BertForSequenceClassification, transformers.BertConfig, intermediate_size=32)


def _headless() -> Any:
    return _sized(transformers.LlamaModel, transformers.LlamaConfig, intermediate_size=32)


@pytest.mark.parametrize("make", [_classifier, _headless, _t5_encoder])
def test_a_base_that_has_not_what_the_mapping_reads(make: Callable[[], Any]) -> None:
    """Label words need a language model's head; the error says what the base gives and which mappings read that."""
    base = make()
    found, name = flags(base), type(base).__name__
    with pytest.raises(ConfigError, match=f"'verbalizer' reads rows, and a {name} gives base.*linear with on='state'"):
        get_reprogram_model(base, program_config("prompt"), tiny("llama")[1])
    assert flags(base) == found


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own (E§0 18)
@pytest.mark.parametrize(("make", "says"), BASES.values(), ids=BASES)
def test_what_is_no_base(make: Callable[[], Any], says: str) -> None:
    thing = make()
    found = flags(thing) if isinstance(thing, torch.nn.Module) else None
    with pytest.raises(BaseModelError, match=f"model: .*{says}"):
        get_reprogram_model(thing, program_config("prompt"), tiny("llama")[1])
    assert found is None or flags(thing) == found


def test_a_row_of_embeddings_that_is_no_number() -> None:
    """Also of a word that no text of ours has: the unit of programs is that of all rows."""
    base, tokenizer = tiny("bert-encoder")
    base.embeddings.word_embeddings.weight.data[50] = float("nan")
    mapping = {"type": "linear", "on": "state", "pool": "mean"}
    config = ReprogramConfig(program={"type": "none", "template": "{text}"}, mapping=mapping, labels=["a", "b"])
    with pytest.raises(BaseModelError, match="embeddings of this BertModel hold numbers that are not finite"):
        get_reprogram_model(base, config, tokenizer)


class TestTokenizers:
    """What is given as processing_class is a tokenizer, and one whose ids the base knows."""

    @pytest.mark.parametrize(
        "processor", ["HuggingFaceTB/SmolLM2-135M", 7, transformers.AutoTokenizer, torch.nn.Identity()]
    )
    @pytest.mark.parametrize("values", [prompt(), linear(), {}], ids=["words", "no-words", "nothing"])
    def test_what_is_no_tokenizer(self, processor: Any, values: dict[str, Any]) -> None:
        base, _ = tiny("llama")
        found = flags(base)
        with pytest.raises(ReprogramError, match="processing_class.*tokenizer"):
            get_reprogram_model(base, ReprogramConfig(**values), processor)
        assert flags(base) == found

    # Torch would say "index out of range in self".
    def test_one_of_a_larger_vocabulary(self) -> None:
        """The tokenizer of another model, or tokens added and the table not resized."""
        base, tokenizer = tiny("llama")
        tokenizer.add_tokens(["new0", "new1"])
        with pytest.raises(ReprogramError, match=r"PromptConfig\.init_text.*vocabulary"):
            get_reprogram_model(base, ReprogramConfig(**prompt(init_text="new1")), tokenizer)
        model = get_reprogram_model(base, ReprogramConfig(**prompt()), tokenizer)
        with nothing_changes(model), pytest.raises(ReprogramError, match=r"rows\[1\].*vocabulary"):
            model.predict(["good", "new1 film"])

    @pytest.mark.parametrize("values", [prompt(), prompt(init_text="so good"), linear(on="rows", words=[" good"])])
    def test_none_where_words_need_one(self, values: dict[str, Any]) -> None:
        base, _ = tiny("llama")
        found = flags(base)
        with pytest.raises(ConfigError, match="without a tokenizer.*processing_class=tokenizer"):
            get_reprogram_model(base, ReprogramConfig(**values))
        assert flags(base) == found

    def test_a_masked_model_whose_tokenizer_has_no_mask(self) -> None:
        base, tokenizer = tiny("bert")
        tokenizer.mask_token = None
        with pytest.raises(ConfigError, match=r"PromptConfig\.template.*needs a mask token"):
            get_reprogram_model(base, ReprogramConfig(**prompt()), tokenizer)


class TestAdapterNames:
    @pytest.mark.parametrize(
        "name", ["", "a.b", "a b", "a/b", "../x", "ä", "__base__", "keys", "forward", None, 7, ["a"], "a\n"]
    )
    def test_that_no_model_can_carry(self, name: Any, tmp_path: Any) -> None:
        model = build(program_config("prompt"), "llama")
        model.save_pretrained(tmp_path)
        base, tokenizer = tiny("llama")
        found = flags(base)
        with nothing_changes(model):
            for call in (
                lambda: model.add_adapter(name, program_config("prompt")),
                lambda: model.load_adapter(tmp_path, name),
                lambda: get_reprogram_model(base, program_config("prompt"), tokenizer, adapter_name=name),
                lambda: ReprogramModel.from_pretrained(base, tmp_path, name),
            ):
                with pytest.raises(ConfigError, match="adapter_name: .*") as error:
                    call()
                assert repr(name) in error.value.what and error.value.expected
        assert flags(base) == found

    def test_that_is_taken(self) -> None:
        model = build(program_config("prompt"), "llama")
        with nothing_changes(model), pytest.raises(ConfigError, match="'default' exists.*delete_adapter first"):
            model.add_adapter("default", program_config("prompt"))
