"""The likeliest mistakes of users of transformers and PEFT: what they write, and our error with its cure.

One table. `match` is of the whole message; what it names last is what to do instead. Tables of single rooms hold many
more cases (`test_bad_*.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import peft
import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from hf_reprogram.auto import AutoReprogramModel
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ArtefactError, BaseModelError, ConfigError, DataError, TemplateError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, build, program_config, tiny
from hf_reprogram.training.trainer import make_trainer
from tests.artefact_kit import KINDS, WORDS, linear, prompt, words


def put(family: str = "llama", **values: Any) -> ReprogramModel:
    """A fresh base of the family with a config of these values."""
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, ReprogramConfig(**values), tokenizer)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Arguments for two steps."""
    values = {"max_steps": 2, "report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    return TrainingArguments(
        str(folder), **{**values, "remove_unused_columns": False, "learning_rate": 0.07, **changes}
    )


def train(model: ReprogramModel, folder: Path, rows: Any = ROWS, **changes: Any) -> None:
    """A plain Trainer."""
    Trainer(model, arguments(folder, **changes), model.collator(), train_dataset=rows).train()


def rows(model: ReprogramModel, folder: Path, *given: Any, features: Any = None) -> Any:
    """What the collator says of rows."""
    return model.collator(features=features)(list(given))


def _lora() -> Any:
    return peft.get_peft_model(tiny("llama")[0], peft.LoraConfig(target_modules=["q_proj"]))


def _saved(model: ReprogramModel, folder: Path) -> Path:
    model.save_pretrained(folder / "program")
    return folder / "program"


def _auto_model(model: ReprogramModel, folder: Path) -> Any:
    tiny("llama")[0].save_pretrained(folder / "base")
    model.peft_config["default"].base_model_name_or_path = str(folder / "base")
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(_saved(model, folder))
    finally:
        model.peft_config["default"].base_model_name_or_path = None


def _untrainable(model: ReprogramModel, folder: Path, how: Callable[..., Any]) -> Any:
    base, tokenizer = tiny("llama")
    return how(AutoReprogramModel.from_pretrained(_saved(model, folder), base, tokenizer), folder)


CLASSIFIER = {"mapping": "labels", "labels": ["a", "b"]}
SEVERAL = {**linear(solver="gradient"), "problem_type": "multi_label_classification"}
NUMBER = {**linear(solver="gradient"), "problem_type": "regression", "labels": ["stars"]}

STREAM = datasets.Dataset.from_list(ROWS).to_iterable_dataset()

# What the user writes, given a model that works and a folder; our error or warning; its message.
MISTAKES: dict[str, tuple[Callable[[ReprogramModel, Path], Any], type[Exception], str]] = {
    # Putting a program on a base
    "the base's name in the place of the base": (
        lambda m, f: get_reprogram_model("HuggingFaceTB/SmolLM2-135M", program_config("prompt"), tiny("llama")[1]),
        BaseModelError,
        r"model: 'HuggingFaceTB/SmolLM2-135M' is a str.*AutoModelForCausalLM\.from_pretrained",
    ),
    "tokenizer and config the wrong way round": (
        lambda m, f: get_reprogram_model(*tiny("llama"), program_config("prompt")),
        ConfigError,
        r"config: .*a ReprogramConfig.*the order is \(model, config, processing_class\)",
    ),
    "no processing_class": (
        lambda m, f: get_reprogram_model(tiny("llama")[0], program_config("prompt")),
        ConfigError,
        r"VerbalizerConfig\.words\['negative'\]: ' bad' without a tokenizer.*pass processing_class=tokenizer",
    ),
    "the tokenizer's name": (
        lambda m, f: get_reprogram_model(tiny("llama")[0], program_config("prompt"), "HuggingFaceTB/SmolLM2-135M"),
        ConfigError,
        r"processing_class: .* is a str.*AutoTokenizer\.from_pretrained",
    ),
    "a base with PEFT's LoRA round it": (
        lambda m, f: get_reprogram_model(_lora(), program_config("prompt"), tiny("llama")[1]),
        BaseModelError,
        "model: is a PeftModel.*a bare transformers model",
    ),
    "label words on a classifier": (
        lambda m, f: put("bert-classifier", **words(WORDS)),
        ConfigError,
        "'verbalizer' reads rows, and a BertForSequenceClassification gives .*classes.*labels a classifier",
    ),
    "more target labels than the base has classes for": (
        lambda m, f: put(
            "bert-classifier",
            program={"type": "prompt", "template": "{prompt:3} {text}"},
            mapping={"type": "labels", "per_label": 3},
            labels=["a", "b", "c"],
        ),
        ConfigError,
        r"per_label: 3 source labels for each of 3 target labels, and there are 7\. Expected at most 2",
    ),
    "an adapter's name with a dot": (
        lambda m, f: m.add_adapter("v1.0", program_config("prompt")),
        ConfigError,
        r"adapter_name: 'v1\.0'\. Expected letters, digits, _ and -",
    ),
    # Templates
    "no {answer}": (
        lambda m, f: put(**prompt("{prompt:3} {text}")),
        ConfigError,
        r"PromptConfig\.template: no \{answer\}.*verbalizer reads.*try .*It was\{answer\}",
    ),
    "{answer} misspelt": (
        lambda m, f: put(**prompt("{prompt:3} {text} It was{answr}")),
        TemplateError,
        r"PromptConfig\.template: no \{answer\} in .*did you mean \{answer\} by \{answr\}\?",
    ),
    "{answer} in the middle, on a causal model": (
        lambda m, f: put(**prompt("{prompt:3} It was{answer}: {text}")),
        ConfigError,
        r"\{answer\} is not last.*answers at the end.*move \{answer\} to the end",
    ),
    "{answer} on a classifier": (
        lambda m, f: put("bert-classifier", **CLASSIFIER, program="prompt"),
        ConfigError,
        r"\{answer\} in .*BertForSequenceClassification answers nowhere.*leave \{answer\} out",
    ),
    "no column in the template": (
        lambda m, f: put(**prompt("{prompt:3} It was{answer}")),
        TemplateError,
        r"no column .*every row would look the same.*\{text\}",
    ),
    # Label words
    "a label word without its space": (
        lambda m, f: put(**words({"negative": [" bad"], "positive": ["good"]})),
        UserWarning,
        r"VerbalizerConfig\.words\['positive'\]: 'good' begins without a space.*' it wasgood'.*Fix: ' good'",
    ),
    "a label word of several tokens, on a masked model": (
        lambda m, f: put("bert", **words({"negative": [" bad"], "positive": [" very good"]})),
        ConfigError,
        r"words\['positive'\]: ' very good' is 2 tokens.*answers at one position.*try 'very good', or a commoner word",
    ),
    # Rows and labels
    "a column misspelt": (
        lambda m, f: m.predict([{"txt": "so good"}]),
        DataError,
        r"rows\[0\]\['text'\]: no such column.*did you mean 'txt'",
    ),
    "an empty text": (
        lambda m, f: m.predict(["so good", ""]),
        DataError,
        r"rows\[1\]\['text'\]: '' is empty.*drop such rows",
    ),
    "a label misspelt": (
        lambda m, f: rows(m, f, {"text": "so good", "label": "Positve"}),
        DataError,
        r"rows\[0\]\['label'\]: unknown label 'Positve'.*did you mean 'positive'",
    ),
    "numbers for labels": (
        lambda m, f: train(m, f, [{"text": "so good", "label": 1}]),
        DataError,
        r"1 is an integer, and nothing says which label it means.*features=dataset\.features",
    ),
    "a dataset whose labels have other names": (
        lambda m, f: rows(m, f, {"text": "so good", "label": 0}, features=["neg", "pos"]),
        DataError,
        r"unknown label 'neg'.*did you mean 'negative'",
    ),
    "half of the rows without labels": (
        lambda m, f: rows(m, f, ROWS[0], {"text": "so good"}),
        DataError,
        r"rows\[1\]\['label'\]: missing.*labels on all rows or on none",
    ),
    "as many numbers as another task has labels": (
        lambda m, f: rows(put(**SEVERAL), f, {"text": "so good", "label": [1, 0, 0]}),
        DataError,
        r"rows\[0\]\['label'\]: \[1, 0, 0\]\. Expected 2 numbers, for \['negative', 'positive'\], or a list of names",
    ),
    "NaN for a number": (
        lambda m, f: rows(put(**NUMBER), f, {"text": "so good", "label": float("nan")}),
        DataError,
        r"rows\[0\]\['label'\]: nan\. Expected finite 1 number.*drop such rows",
    ),
    # Calling the model
    "columns of the plain tokenizer": (
        lambda m, f: m(**m.processing_class("so good", return_tensors="pt")),
        UsageError,
        r"slot_index: missing: a slot program got plain input_ids.*make batches with model\.collator\(\)",
    ),
    "generate as transformers has it": (
        lambda m, f: m.generate(**m.processing_class("so good", return_tensors="pt")),
        UsageError,
        r"generate\(rows\): None, and 'input_ids' given.*model\.generate\(\[",
    ),
    "transformers' own pipeline": (
        lambda m, f: transformers.pipeline("text-classification", m, tokenizer=m.processing_class)("so good"),
        UsageError,
        r"a slot program got plain input_ids.*model\.collator\(\)",
    ),
    "predicting before the mapping is fitted": (
        lambda m, f: put(**KINDS["ridge"]).predict("so good"),
        UsageError,
        r"must be fitted before it maps anything.*model\.fit_mapping\(rows\), or train with make_trainer",
    ),
    "merge_and_unload": (
        lambda m, f: m.merge_and_unload(),
        UsageError,
        r"cannot be merged.*unload\(\) gives the base back",
    ),
    "set_adapter of a program that is not there": (
        lambda m, f: m.set_adapter("defualt"),
        UsageError,
        "adapter_name: unknown program 'defualt'.*did you mean 'default'",
    ),
    # Training
    "Trainer's default learning rate": (
        partial(train, learning_rate=5e-5),
        UserWarning,
        r"learning rate 5e-05 hardly moves a program.*model\.learning_rate is 0\.07",
    ),
    "Trainer's default of dropping columns": (
        partial(train, remove_unused_columns=True),
        UsageError,
        r"rows\[0\]\['text'\]: missing.*TrainingArguments\(remove_unused_columns=False\)",
    ),
    "reentrant gradient checkpointing": (
        partial(train, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True}),
        UsageError,
        "use_reentrant=True. Expected use_reentrant=False",
    ),
    "going on with a program loaded to predict": (
        lambda m, f: _untrainable(m, f, train),
        UsageError,
        "model: nothing trains.*is_trainable=True",
    ),
    "the same with make_trainer": (
        lambda m, f: _untrainable(m, f, lambda again, folder: make_trainer(again, arguments(folder), ROWS)),
        UsageError,
        "model: nothing trains.*is_trainable=True",
    ),
    "training where all is estimated": (
        lambda m, f: make_trainer(
            put(**KINDS["ridge"] | {"program": KINDS["words-only"]["program"]}), arguments(f), ROWS
        ),
        UsageError,
        r"model: nothing trains: none and linear have no parameters.*Fix: model\.fit_mapping\(rows\): 'linear' is est",
    ),
    "a streamed dataset and no max_steps": (
        lambda m, f: make_trainer(m, arguments(f, max_steps=-1), STREAM),
        UsageError,
        "max_steps: not set, and train_dataset streams without a length",
    ),
    # Loading
    "PeftModel.from_pretrained": (
        lambda m, f: peft.PeftModel.from_pretrained(tiny("llama")[0], str(_saved(m, f))),
        BaseModelError,
        r"cannot sit in a bare LlamaForCausalLM.*hr\.AutoReprogramModel\.from_pretrained loads one",
    ),
    "AutoModelForCausalLM.from_pretrained": (
        _auto_model,
        BaseModelError,
        r"cannot sit in a bare LlamaForCausalLM.*hr\.AutoReprogramModel\.from_pretrained loads one",
    ),
    "another base than it was trained on": (
        lambda m, f: AutoReprogramModel.from_pretrained(_saved(m, f), *tiny("llama", seed=1)),
        ArtefactError,
        "made for a base with other weights.*the base and processor that it was trained with",
    ),
    "another tokenizer than it was trained with": (
        lambda m, f: AutoReprogramModel.from_pretrained(_saved(m, f), tiny("llama")[0], tiny("bert")[1]),
        ArtefactError,
        "made for another tokenizer.*the base and processor that it was trained with",
    ),
}


def test_there_are_thirty_and_a_few() -> None:
    assert 30 <= len(MISTAKES) <= 40


@pytest.fixture(scope="module")
def model() -> ReprogramModel:
    """One model for the whole table: a mistake leaves no trace."""
    return build(program_config("prompt"), "llama")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own (E§0 18)
@pytest.mark.parametrize(("write", "error", "match"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_its_cure(
    write: Callable[[ReprogramModel, Path], Any], error: type[Exception], match: str, model: ReprogramModel,
    tmp_path: Path,
) -> None:  # fmt: skip
    slots = model.active_programs()[0].slots
    before, trains = slots.detach().clone(), slots.requires_grad
    expect = pytest.warns if issubclass(error, Warning) else pytest.raises
    with expect(error, match=match):
        write(model, tmp_path)
    with torch.no_grad():
        assert issubclass(error, Warning) or torch.equal(slots, before), "the program changed"
        slots.copy_(before)
    assert slots.requires_grad == trains
    model.eval()


def test_rows_in_another_order_of_labels_are_learned_by_name(model: ReprogramModel, tmp_path: Path) -> None:
    """No mistake to tell of, though elsewhere the commonest one: a dataset brings the names of its labels."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS[::-1])})
    dataset = datasets.Dataset.from_list(
        [{"text": row["text"], "label": LABELS[::-1].index(row["label"])} for row in ROWS], features=features
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = make_trainer(model, arguments(tmp_path), dataset)
    assert trainer.data_collator(list(dataset))["labels"].tolist() == [LABELS.index(row["label"]) for row in ROWS]
