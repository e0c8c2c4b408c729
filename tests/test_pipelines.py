"""`hr.pipeline`: transformers' shapes on raw rows, with the target's labels, and never without the program (U§9)."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError, BaseModelError, DataError, UsageError
from hf_reprogram.testing import ROWS, build, program_config, tiny


TEXTS = [row["text"] for row in ROWS]
PLAIN = hr.ReprogramConfig(program={"type": "prompt", "template": "{prompt:2} {text}"})


@pytest.fixture(scope="module")
def model() -> hr.ReprogramModel:
    return build(program_config("prompt"), "llama")


@pytest.fixture(scope="module")
def classify(model: hr.ReprogramModel) -> Any:
    return hr.pipeline("text-classification", model=model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base in `base/`, and `program/` that was made on it."""
    folder = tmp_path_factory.mktemp("pipeline")
    base, tokenizer = tiny("llama")
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = type(base).from_pretrained(folder / "base")
    hr.get_reprogram_model(base, program_config("prompt"), tokenizer).save_pretrained(folder / "program")
    return folder


def _shape(value: Any) -> Any:
    """Nested lists of the keys of dicts."""
    return [_shape(v) for v in value] if isinstance(value, list) else tuple(value)


ANSWER = ("label", "score")


class TestShapes:
    """transformers' own: `TextClassificationPipeline.__call__`, 5.23."""

    @pytest.mark.parametrize(
        ("rows", "options", "shape"),
        [
            ("so good", {}, [ANSWER]),
            (["so good"], {}, [ANSWER]),
            (["so good", "bad"], {}, [ANSWER, ANSWER]),
            ({"text": "so good"}, {}, ANSWER),
            ([{"text": "so good"}, {"text": "bad"}], {}, [ANSWER, ANSWER]),
            ("so good", {"top_k": 1}, [ANSWER]),
            ("so good", {"top_k": 2}, [ANSWER, ANSWER]),
            ("so good", {"top_k": None}, [ANSWER, ANSWER]),
            (["so good", "bad"], {"top_k": 1}, [[ANSWER], [ANSWER]]),
            (["so good", "bad"], {"top_k": 9}, [[ANSWER, ANSWER]] * 2),
            ([], {}, []),
        ],
    )
    def test_of_a_call(self, classify: Any, rows: Any, options: dict[str, Any], shape: Any) -> None:
        assert _shape(classify(rows, **options)) == shape

    @pytest.mark.parametrize("rows", ["so good", ["so good"], ["so good", "bad"], {"text": "so good"}])
    @pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}])
    def test_are_those_of_transformers(self, classify: Any, rows: Any, options: dict[str, Any]) -> None:
        base, tokenizer = tiny("bert")
        config = transformers.BertConfig(**base.config.to_diff_dict() | {"num_labels": 2})
        theirs = transformers.pipeline(
            "text-classification", transformers.BertForSequenceClassification(config), tokenizer=tokenizer
        )
        assert _shape(classify(rows, **options)) == _shape(theirs(rows, **options))

    def test_options_of_all_calls(self, model: hr.ReprogramModel) -> None:
        classify = hr.pipeline("sentiment-analysis", model, top_k=None)
        assert _shape(classify(["so good"])) == [[ANSWER, ANSWER]]
        assert _shape(classify(["so good"], top_k=1)) == [[ANSWER]]


class TestRows:
    def test_answers_are_those_of_predict(self, classify: Any, model: hr.ReprogramModel) -> None:
        assert classify(TEXTS) == model.predict(TEXTS)
        assert classify(ROWS, batch_size=2) == model.predict(ROWS, batch_size=2)
        best = [max(answers, key=lambda a: a["score"]) for answers in classify(TEXTS, top_k=None)]
        assert best == classify(TEXTS)

    def test_a_generator_is_answered_as_it_is_read(self, model: hr.ReprogramModel) -> None:
        read = 0

        def endless() -> Iterator[str]:
            nonlocal read
            while True:
                read += 1
                yield TEXTS[read % len(TEXTS)]

        answers = hr.pipeline("text-classification", model, batch_size=2)(endless())
        assert read == 0
        for text in (TEXTS[1], TEXTS[2], TEXTS[3]):
            answer, expected = next(answers), model.predict(text)[0]
            assert answer == {"label": expected["label"], "score": pytest.approx(expected["score"], abs=1e-6)}
        assert read == 32  # sixteen batches, so that rows of like length find each other

    @pytest.mark.parametrize("streamed", [True, False])
    def test_a_dataset_is_streamed_in_order(self, classify: Any, streamed: bool) -> None:
        data = datasets.Dataset.from_list([{"text": text} for text in TEXTS])
        answers = classify(data.to_iterable_dataset() if streamed else data, batch_size=4)
        assert isinstance(answers, Iterator)
        assert list(answers) == classify(TEXTS, batch_size=4)

    @pytest.mark.parametrize("rows", [7, None, [7], [["a", "b"]], {"txt": "a"}, ["good", ""]])
    def test_what_is_no_row_is_refused(self, classify: Any, rows: Any) -> None:
        with pytest.raises((DataError, UsageError)):
            classify(rows)


class TestGeneration:
    @pytest.mark.parametrize("family", ["llama", "t5"])
    def test_new_text_in_transformers_shapes(self, family: str) -> None:
        base, tokenizer = tiny(family)
        model = hr.get_reprogram_model(base, PLAIN, tokenizer)
        write = hr.pipeline("text-generation", model, max_new_tokens=4, do_sample=False, batch_size=2)
        ids = model.generate(TEXTS[:3], max_new_tokens=4, do_sample=False)
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert any(texts)
        assert write(TEXTS[:3]) == [[{"generated_text": text}] for text in texts]
        assert write(TEXTS[0]) == write({"text": TEXTS[0]}) == [{"generated_text": texts[0]}]
        assert list(write(iter(TEXTS[:3]))) == write(TEXTS[:3])

    def test_is_what_a_program_without_mapping_is_for(self) -> None:
        base, tokenizer = tiny("llama")
        write = hr.pipeline(None, hr.get_reprogram_model(base, PLAIN, tokenizer), max_new_tokens=2)
        assert [*write(TEXTS[0])[0]] == ["generated_text"]
        classify = hr.pipeline(None, build(program_config("prompt"), "llama"))
        assert set(classify(TEXTS[0])[0]) == {"label", "score"}

    def test_the_text_before_it_cannot_be_given_back(self) -> None:
        base, tokenizer = tiny("llama")
        write = hr.pipeline("text-generation", hr.get_reprogram_model(base, PLAIN, tokenizer), max_new_tokens=2)
        assert write(TEXTS[0], return_full_text=False) == write(TEXTS[0])
        with pytest.raises(UsageError, match="return_full_text.*slots are no text"):
            write(TEXTS[0], return_full_text=True)

    def test_several_texts_for_a_row(self) -> None:
        base, tokenizer = tiny("llama")
        write = hr.pipeline("text-generation", hr.get_reprogram_model(base, PLAIN, tokenizer), max_new_tokens=3)
        found = write(TEXTS[:2], num_beams=2, num_return_sequences=2)
        assert _shape(found) == [[("generated_text",)] * 2] * 2

    def test_a_masked_model_writes_nothing(self) -> None:
        base, tokenizer = tiny("bert")
        with pytest.raises(BaseModelError, match="a BertForMaskedLM writes no text"):
            hr.pipeline("text-generation", hr.get_reprogram_model(base, PLAIN, tokenizer))


class TestRefused:
    @pytest.mark.parametrize(
        ("task", "nearest"),
        [("text-classifcation", "text-classification"), ("text2text-generation", "text-generation")],
    )
    def test_an_unknown_task_names_the_nearest(self, model: hr.ReprogramModel, task: str, nearest: str) -> None:
        with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
            hr.pipeline(task, model)

    @pytest.mark.parametrize("task", ["token-classification", "", ["text-generation"]])
    def test_any_other_task_too(self, model: hr.ReprogramModel, task: Any) -> None:
        with pytest.raises(
            UsageError,
            match="Known: 'audio-classification', 'automatic-speech-recognition', 'fill-mask', 'sentiment-",
        ):
            hr.pipeline(task, model)

    def test_masks_are_filled_in_the_program_s_symbols(self) -> None:
        config = hr.ReprogramConfig(program=hr.ProjectionConfig(symbols="abc"), mapping=hr.TokensConfig(symbols="abc"))
        base, tokenizer = tiny("bert")
        fill = hr.pipeline(None, hr.get_reprogram_model(base, config, tokenizer))
        (answer,) = fill("a<mask>c")
        assert answer == fill.model.predict("a<mask>c")[0] and answer["sequence"] == f"a{answer['text']}c"
        assert fill(["a<mask>", "<mask>b"]) == fill.model.predict(["a<mask>", "<mask>b"])
        with pytest.raises(UsageError, match="'text-classification', and the program writes texts"):
            hr.pipeline("text-classification", fill.model)

    def test_a_program_without_labels_classifies_nothing(self) -> None:
        base, tokenizer = tiny("llama")
        model = hr.get_reprogram_model(base, PLAIN, tokenizer)
        with pytest.raises(UsageError, match="the program has no labels.*text-generation"):
            hr.pipeline("text-classification", model)
        with pytest.raises(UsageError, match=r"pipeline\(task\): None, and the program has no labels"):
            hr.pipeline(model=hr.get_reprogram_model(tiny("bert")[0], PLAIN, tokenizer))

    def test_a_model_alone_is_no_first_argument(self, model: hr.ReprogramModel) -> None:
        assert type(hr.pipeline(model=model)).__name__ == "TextClassification"
        for given in (model, "me/reviews"):
            with pytest.raises(UsageError, match=r"pipeline\(model\): missing.*the first argument is the task"):
                hr.pipeline(given)
        for given in ([], ["text-classification"]):
            with pytest.raises(UsageError, match=r"pipeline\(model\): missing.*Fix: pipeline\(model=...\)$"):
                hr.pipeline(*given)

    def test_options_and_models(self, model: hr.ReprogramModel, classify: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="unknown option 'topk'. Fix: did you mean 'top_k'"):
            hr.pipeline("text-classification", model, topk=2)
        with pytest.raises(UsageError, match="unknown option 'truncation'"):
            classify("so good", truncation=True)
        with pytest.raises(UsageError, match="top_k"):
            classify("so good", top_k=0)
        with pytest.raises(UsageError, match=r"pipeline\(model\): LlamaForCausalLM"):
            hr.pipeline("text-classification", tiny("llama")[0])
        with pytest.raises(UsageError, match=r"pipeline\(base_model\).*the model is loaded"):
            hr.pipeline("text-classification", model, base_model="x")
        with pytest.raises(ArtefactError, match="is not an artefact"):
            hr.pipeline("text-classification", tmp_path)


class TestFromAFolder:
    def test_it_is_loaded_with_its_base(self, folder: Path, classify: Any) -> None:
        assert hr.pipeline("text-classification", str(folder / "program"))(TEXTS) == classify(TEXTS)

    @pytest.mark.parametrize("loaded", [True, False])
    def test_the_base_may_be_given(self, folder: Path, classify: Any, loaded: bool) -> None:
        where = str(folder / "base")
        base = transformers.AutoModelForCausalLM.from_pretrained(where) if loaded else where
        made = hr.pipeline("text-classification", folder / "program", base_model=base, device="cpu")
        assert made(TEXTS) == classify(TEXTS)

    def test_arguments_for_loading(self, folder: Path) -> None:
        with pytest.raises(ArtefactError, match="dtype"):
            hr.pipeline("text-classification", folder / "program", model_kwargs={"dtype": torch.float16})

    def test_nobody_calls_it_unsupported(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        """transformers says "The model 'PeftModel' is not supported for ..." of programs that work (peft#218)."""
        logger = logging.getLogger("transformers")
        logger.addHandler(caplog.handler)
        try:
            hr.pipeline("text-classification", folder / "program")("so good")
            hr.pipeline("text-generation", folder / "program", max_new_tokens=2)("so good")
        finally:
            logger.removeHandler(caplog.handler)
        assert "not supported" not in caplog.text

    @pytest.mark.parametrize("task", ["text-classification", "text-generation"])
    def test_transformers_own_never_drops_the_program(self, folder: Path, task: str) -> None:
        """Asked for a folder of ours, it must not answer from the bare base (transformers#36480)."""
        with pytest.raises(Exception, match="hf_reprogram|REPROGRAM|AutoReprogramModel"):
            transformers.pipeline(task, model=str(folder / "program"))

    def test_the_name_is_a_function_whatever_was_imported_before(self) -> None:
        """Importing a module of that name would put the module in its place."""
        modules = {module.name for module in pkgutil.iter_modules(hr.__path__)}
        assert "pipelines" in modules and not modules & set(hr.__all__)
