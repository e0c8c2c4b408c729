"""`transcript`: the probability of a text by the base's own decoder, what programs learn by it, what it writes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import hf_reprogram as hr
from hf_reprogram.backbone import backbone_of
from hf_reprogram.batch import Batch, Reading
from hf_reprogram.errors import BaseModelError, ConfigError, DataError, UsageError
from hf_reprogram.metrics import error_rate
from hf_reprogram.testing import AUDIO_ROWS, tiny
from hf_reprogram.testing.audio import CANVAS
from hf_reprogram.testing.helpers import same_texts, train_step


WRITERS = ("whisper-seq2seq", "moonshine-seq2seq")
SOUNDS = [{"audio": row["audio"]} for row in AUDIO_ROWS]


def _model(family: str, program: object = None, base: object = None, **options: object) -> hr.ReprogramModel:
    made, processor = tiny(family)
    canvas = {"samples": CANVAS} if family.startswith("moonshine") else None
    config = hr.ReprogramConfig(program=program, mapping={"type": "transcript", "most": 5, **options}, canvas=canvas)
    return hr.get_reprogram_model(base or made, config, processing_class=processor)


def _heard(model: hr.ReprogramModel, rows: list[dict]) -> dict[str, torch.Tensor]:
    return model.backbone.frontend.features(model.collator()(rows)["input_values"])


@pytest.mark.parametrize("family", WRITERS)
def test_its_loss_is_the_base_s_own(family: str) -> None:
    model = _model(family)
    columns = model.collator()([dict(AUDIO_ROWS[0], text="it was a fine day"), AUDIO_ROWS[1]])
    assert columns["labels"].shape == (2, 6) and columns["labels"][1, 2:].tolist() == [-100] * 4
    assert columns["labels"][0, -1] == columns["labels"][1, 1] == 3  # the end
    own = model.backbone.base(**_heard(model, SOUNDS[:2]), labels=columns["labels"])
    assert model(**columns).loss.item() == pytest.approx(own.loss.item(), rel=1e-5)
    each = own.logits.log_softmax(-1)[0].gather(1, columns["labels"][0].unsqueeze(1)).squeeze(1)
    assert torch.allclose(model(**columns).logits[0], each, atol=1e-5)
    assert model(**columns, num_items_in_batch=80).loss.item() == pytest.approx(own.loss.item() * 8 / 80, rel=1e-5)


def test_a_speech2text_too() -> None:
    """Its feature extractor has a mask, and its states are scaled."""
    backbone = backbone_of(*tiny("speech2text-seq2seq"))
    wave = 0.1 * torch.randn(2, 9600, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[5, 6, 3], [7, 3, -100]])
    found = backbone.run(Batch(input_values=wave, answer_ids=ids), Reading("text")).values
    own = backbone.base(**backbone.frontend.features(wave), labels=ids).loss
    assert (-found.sum() / 5).item() == pytest.approx(own.item(), rel=1e-5)
    ((written, score), _) = backbone.write(Batch(input_values=wave), None, 4)
    alone = Batch(input_values=wave[:1], answer_ids=torch.tensor([[*written, 3][:4]]))
    by_hand = backbone.run(alone, Reading("text")).values.mean().exp()
    assert score == pytest.approx(by_hand.item(), rel=1e-4)


def test_no_tensor_of_the_vocabularys_size_is_made() -> None:
    """Neither in training's forward nor in its backward; only writing makes one at each step."""
    model, seen = _model("moonshine-seq2seq", "waveform"), []
    columns = model.collator()(AUDIO_ROWS)

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            for each in made if isinstance(made, tuple | list) else (made,):
                if isinstance(each, torch.Tensor) and each.ndim and each.shape[-1] == model.backbone.head.size:
                    seen.append(tuple(each.shape))
            return made

    with Look():
        model(**columns).loss.backward()
    assert not seen


@pytest.mark.parametrize("family", WRITERS)
def test_it_writes_what_the_base_writes(family: str) -> None:
    model = _model(family)
    tokenizer, heard = model.processing_class.tokenizer, _heard(model, SOUNDS)
    own = model.backbone.base.generate(**heard, max_new_tokens=5, do_sample=False)
    answers = model.predict(AUDIO_ROWS, batch_size=4)
    assert [a["text"] for a in answers] == [t.strip() for t in tokenizer.batch_decode(own, skip_special_tokens=True)]
    ids = model.backbone.write(model.reprogrammed.batch(**model.collator()(SOUNDS)), None, 5)
    for answer, (written, _), row in zip(answers, ids, SOUNDS, strict=True):
        batch = model.reprogrammed.batch(**model.collator()([row]))
        batch.answer_ids = torch.tensor([[*written, 3][:5]])
        by_hand = model.backbone.run(batch, Reading("text")).values.mean().exp()
        assert answer["score"] == pytest.approx(by_hand.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("family", "program", "rate"),
    [
        ("whisper-seq2seq", "waveform", 0.01),
        ("whisper-seq2seq", "spec_additive", 0.1),
        ("whisper-seq2seq", {"type": "latent_deep", "length": 2}, 0.1),
        ("moonshine-seq2seq", {"type": "latent_bridge", "rank": 4, "kernel": 3}, 0.1),
        ("moonshine-seq2seq", {"type": "waveform_pad", "before": 640, "limit": 0.5}, 0.1),
    ],
)
def test_a_program_learns_through_the_decoder(family: str, program: object, rate: float, tmp_path: Path) -> None:
    """One text for all sounds: its probability rises."""
    model = _model(family, program)
    rows = [dict(row, text="fine") for row in AUDIO_ROWS]
    columns, before = model.collator()(rows), model.evaluate(rows)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    for _ in range(12):
        optimizer.zero_grad()
        model(**columns).loss.backward()
        optimizer.step()
    model.eval()
    after = model.evaluate(rows)
    assert after["loss"] < before["loss"] - 0.05 and {"cer", "wer"} <= set(after)
    model.save_pretrained(tmp_path)
    again = hr.AutoReprogramModel.from_pretrained(tmp_path, *tiny(family))
    assert again.predict(SOUNDS) == model.predict(SOUNDS)


class TestPrompt:
    """Of a Whisper that knows languages: what stands before the words."""

    @staticmethod
    def _base() -> object:
        base = tiny("whisper-seq2seq")[0]
        known = base.generation_config
        known.is_multilingual, known.no_timestamps_token_id = True, 13
        known.lang_to_id, known.task_to_id = {"<|en|>": 10, "<|de|>": 11}, {"transcribe": 12, "translate": 14}
        return base

    @pytest.mark.parametrize(
        ("option", "language", "task", "prompt"),
        [
            (None, None, None, (2, 10, 12, 13)),
            ("de", None, None, (2, 11, 12, 13)),
            (None, "german", "translate", (2, 11, 14, 13)),
            ("English", "<|de|>", None, (2, 10, 12, 13)),
        ],
    )
    def test_language_and_task(self, option: str, language: str, task: str, prompt: tuple) -> None:
        base = self._base()
        base.generation_config.language, base.generation_config.task = language, task
        model = _model("whisper-seq2seq", base=base, language=option)
        columns = model.collator()(AUDIO_ROWS[:1])
        before = torch.tensor([[*prompt, *columns["labels"][0, :-1]]])
        own = base(**_heard(model, SOUNDS[:1]), decoder_input_ids=before).logits[:, len(prompt) - 1 :].log_softmax(-1)
        expected = own.gather(-1, columns["labels"].unsqueeze(-1)).squeeze(-1)
        assert torch.allclose(model(**columns).logits, expected, atol=1e-5)

    def test_it_stands_before_what_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base, seen = self._base(), []
        model = _model("whisper-seq2seq", base=base, language="de")
        decoder = base.get_decoder()
        decoder.register_forward_pre_hook(lambda m, a, k: seen.append(k["input_ids"][0].tolist()), with_kwargs=True)
        (answer,) = model.predict(SOUNDS[:1])
        assert seen[0] == [2, 11, 12, 13] and 0 < answer["score"] < 1

    def test_one_that_it_does_not_know(self) -> None:
        with pytest.raises(ConfigError, match="language: 'fr'.*Known: 'de', 'en'"):
            _model("whisper-seq2seq", base=self._base(), language="fr")
        with pytest.raises(ConfigError, match="a MoonshineForConditionalGeneration that is not asked for one"):
            _model("moonshine-seq2seq", language="de")


class TestTexts:
    def test_a_byte_level_tokenizer_writes_a_space_before_the_first_word(self) -> None:
        model = _model("whisper-seq2seq")
        tokenizer, mapping = model.processing_class.tokenizer, model.peft_config["default"].mapping
        assert mapping.space is True and mapping.end == 3
        ids = mapping.encode("fine", tokenizer, "")
        assert tokenizer.convert_ids_to_tokens(ids) == ["Ġfine", "</s>"] and mapping.decode(ids, tokenizer) == "fine"
        plain = hr.TranscriptConfig(space=False)
        plain.resolve(tokenizer, None)
        assert tokenizer.convert_ids_to_tokens(plain.encode("fine", tokenizer, "")) == ["fine", "</s>"]

    def test_an_end_of_none_is_written_until_the_limit(self) -> None:
        assert all(len(ids) <= 2 for ids, _ in _written(most=2))

    @pytest.mark.parametrize(
        ("text", "says"),
        [("quux", "'quux' has parts that the tokenizer does not know"), (None, "labels: missing"), (7, "7 is a int")],
    )
    def test_that_cannot_be_written(self, text: object, says: str) -> None:
        model = _model("moonshine-seq2seq")
        with pytest.raises((DataError, UsageError), match=says):
            model(**model.collator()([dict(SOUNDS[0], text=text)]))

    def test_longer_than_the_decoder(self) -> None:
        model = _model("whisper-seq2seq")  # 16 positions
        with pytest.raises(
            DataError, match="row 1 of the batch: a text of 19 tokens, its end among them. Expected at most 15"
        ):
            model(**model.collator()([AUDIO_ROWS[0], dict(SOUNDS[1], text="good " * 17 + "day")]))


def _written(**options: object) -> list[tuple[list[int], float]]:
    model = _model("moonshine-seq2seq", **options)
    return model.reprogrammed.write(model.collator()(SOUNDS))


def test_a_base_or_a_processor_that_cannot() -> None:
    with pytest.raises(ConfigError, match="'transcript' reads text, and a Wav2Vec2ForCTC gives"):
        _model("wav2vec2-ctc")
    base, processor = tiny("moonshine-seq2seq")
    config = hr.ReprogramConfig(mapping="transcript", canvas={"samples": CANVAS})
    with pytest.raises(ConfigError, match="without the base's tokenizer"):
        hr.get_reprogram_model(base, config, processor.feature_extractor)
    base.generation_config.eos_token_id = [7, 8]
    with pytest.raises(ConfigError, match=r"ends a text with 3, the base with \(7, 8\)"):
        hr.get_reprogram_model(base, config, processor)
    with pytest.raises(ConfigError, match="None: the base's own tokens write"):
        hr.get_reprogram_model(base, hr.ReprogramConfig(mapping="transcript", labels=["a", "b"]), processor)


def test_mixed_with_a_program_of_letters() -> None:
    """Each row by its own program's way of writing."""
    model = _model("moonshine-seq2seq", "waveform")
    train_step(model)
    letters = hr.CtcConfig(symbols=list("abdefin"), on="state")
    model.add_adapter("letters", hr.ReprogramConfig(mapping=letters, canvas={"samples": CANVAS}))
    mixed = model.predict([dict(SOUNDS[0]), dict(SOUNDS[1], adapter="letters"), dict(SOUNDS[2])])
    same_texts(mixed[::2], model.predict([SOUNDS[0], SOUNDS[2]]), "beside another program")
    model.set_adapter("letters")
    assert mixed[1]["text"] == model.predict([SOUNDS[1]])[0]["text"] and set(mixed[1]["text"]) <= set("abdefin")


def test_evaluation_by_hand() -> None:
    model = _model("moonshine-seq2seq")
    rows = [dict(row, text=text) for row, text in zip(SOUNDS, ("bad day", "fine", "book"), strict=False)]
    found = model.evaluate(rows)
    assert found["wer"] == error_rate(
        [a["text"].split() for a in model.predict(rows)], [["bad", "day"], ["fine"], ["book"]]
    )
    assert found["n"] == 3
    assert math.isclose(found["loss"], float(model(**model.collator()(rows)).loss), rel_tol=1e-5)
    with pytest.raises(BaseModelError, match="'sequence' is not something"):
        model.backbone.run(Batch(input_values=torch.zeros(1, CANVAS)), Reading("sequence"))
