"""`ctc`: letters from frames; where it starts, what it learns, what it writes, how wrong that is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import soundfile
import torch
import transformers as t
from transformers import TrainingArguments

import hf_reprogram as hr
from hf_reprogram.batch import Readout
from hf_reprogram.cli import main
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.losses import NEVER
from hf_reprogram.metrics import edit_distance, metrics, text_errors
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, tiny
from hf_reprogram.testing.audio import AUDIO_KIN, CANVAS, _wav2vec2
from hf_reprogram.testing.helpers import train_step
from hf_reprogram.tools.figures import plot_mapping


LETTERS = list("abdefin")
FULL = [
    dict(row, audio={"array": [0.01 * i for i in range(CANVAS)], "sampling_rate": 16000}) for row in AUDIO_ROWS[:2]
]


def _model(family: str = "wav2vec2-ctc", program: object = None, **options: object) -> hr.ReprogramModel:
    base, processor = tiny(family)
    samples = {} if family.startswith("whisper") else {"samples": CANVAS}
    config = hr.ReprogramConfig(
        program=program, mapping={"type": "ctc", "symbols": LETTERS, **options}, canvas=samples or None
    )
    return hr.get_reprogram_model(base, config, processing_class=processor)


class TestStart:
    def test_a_letter_begins_at_the_base_s_token_and_blank_at_its_blank(self) -> None:
        mapping = _model().active_mapping()
        vocabulary = tiny("wav2vec2-ctc")[1].tokenizer.get_vocab()
        assert mapping.matrix[0].nonzero().flatten().tolist() == [vocabulary["<pad>"]]
        assert mapping.matrix[1 + LETTERS.index("d")].nonzero().flatten().tolist() == [vocabulary["D"]]

    def test_a_space_begins_at_the_word_delimiter_and_a_new_letter_at_the_mean(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = _model(symbols=[" ", "д"])
        assert model.peft_config["default"].mapping.tokens == [4, -1]
        assert model.active_mapping().matrix[2].sum().item() == pytest.approx(1.0, abs=0.5)
        assert "no token for ['д']" in caplog.text

    def test_a_fresh_map_of_all_letters_writes_what_the_base_writes(self) -> None:
        base, processor = tiny("wav2vec2-ctc")
        names = [name for name in processor.tokenizer.get_vocab() if name.isalpha()]
        with torch.no_grad():  # so that it says none of the others
            base.lm_head.bias[[1, 2, 3, 4]] = -50.0
        model = hr.get_reprogram_model(
            base, hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=names), canvas={"samples": CANVAS}), processor
        )
        inputs = model.backbone.frontend.features(
            model.collator()([{"audio": row["audio"]} for row in FULL])["input_values"]
        )
        own = processor.tokenizer.batch_decode(base(**inputs).logits.argmax(-1))
        assert [answer["text"] for answer in model.predict(FULL)] == own and all(own)

    def test_its_loss_is_that_of_transformers(self) -> None:
        """Theirs is a mean of rows, each divided by its length, or a sum over the batch; ours a sum per symbol."""
        base, processor = tiny("wav2vec2-ctc")
        base.config.ctc_loss_reduction = "sum"
        names = [name for name, i in sorted(processor.tokenizer.get_vocab().items(), key=lambda pair: pair[1]) if i]
        config = hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=names), canvas={"samples": CANVAS})
        model = hr.get_reprogram_model(base, config, processor)
        columns = model.collator()([dict(row, text=row["text"].upper()) for row in FULL])
        inputs = model.backbone.frontend.features(columns["input_values"])
        theirs = base(**inputs, labels=columns["labels"]).loss.item()  # the symbols are its tokens, in their order
        assert model(**columns).loss.item() == pytest.approx(theirs / 7, rel=1e-5)


class TestFrames:
    def test_they_end_where_the_signal_ends(self) -> None:
        model = _model()
        batch = model.reprogrammed.batch(**model.collator()([{"audio": row["audio"]} for row in AUDIO_ROWS]))
        mask = model.backbone.run(batch, model.active_mapping().reading()).mask
        lengths = [-(-9 * len(row["audio"]["array"]) // CANVAS) for row in AUDIO_ROWS]
        assert mask.sum(1).tolist() == lengths and mask.shape[1] == 9

    def test_behind_the_end_blank_is_certain(self) -> None:
        mapping = _model().active_mapping()
        values, mask = torch.randn(1, 3, 30), torch.tensor([[True, True, False]])
        made = mapping(Readout(values, mask, "frames"))[0]
        assert made[:2].exp().sum(1).allclose(torch.ones(2)) and made[2, 0] == 0.0 and (made[2, 1:] == NEVER).all()

    @pytest.mark.parametrize(
        ("family", "program"),
        [
            ("wav2vec2-ctc", {"type": "latent_insert", "length": 3}),
            ("wav2vec2-ctc", {"type": "waveform_pad", "before": 640}),
            ("whisper-seq2seq", {"type": "mel_prompt", "length": 8}),
            ("speech2text-seq2seq", {"type": "mel_prompt", "length": 8}),
        ],
    )
    def test_s8_frames_that_a_program_puts_in_do_not_shorten_the_row(self, family: str, program: dict) -> None:
        on = "tokens" if family == "wav2vec2-ctc" else "state"
        model, plain = _model(family, program, on=on), _model(family, on=on)
        rows, masks = [{"audio": AUDIO_ROWS[0]["audio"]}], []
        for each in (model, plain):
            batch = each.reprogrammed.program(each.reprogrammed.batch(**each.collator()(rows)), each.backbone)
            masks.append(each.backbone.run(batch, each.active_mapping().reading()).mask)
        moved = {"latent_insert": 0, "waveform_pad": 2, "mel_prompt": 4 if family.startswith("whisper") else 2}
        assert abs(int(masks[0].sum() - masks[1].sum()) - moved[program["type"]]) <= 1

    @pytest.mark.parametrize("family", [*AUDIO_FAMILIES, *AUDIO_KIN])
    def test_states_of_every_base_whose_layers_run_along_time(self, family: str) -> None:
        if family in ("ast-classifier", "attentionrnn-classifier"):  # patches; no layers
            with pytest.raises(ConfigError, match="'ctc' reads frame_states, and a"):
                _model(family, on="state")
            return
        model = _model(family, on="state")
        rows = [dict(row, text=row["text"][:2]) for row in AUDIO_ROWS[:3]]
        model(**model.collator()(rows)).loss.backward()
        assert model.active_mapping().matrix.grad.abs().sum() > 0
        assert model.active_mapping().matrix.shape == (8, model.backbone.width)

    def test_a_deeper_layer(self) -> None:
        model = _model(on="state", layer=1)
        columns = model.collator()(AUDIO_ROWS[:1])
        inputs = model.backbone.frontend.features(columns["input_values"])
        states = model.backbone.base(**inputs, output_hidden_states=True).hidden_states[1]
        found = model.reprogrammed.readout(
            {k: v for k, v in columns.items() if k != "labels"}, model.active_mapping().reading()
        )
        assert torch.allclose(found[..., :-1], states, atol=1e-6)


@pytest.mark.parametrize(
    "config", [t.HubertConfig, t.WavLMConfig, t.SEWConfig, t.UniSpeechSatConfig, t.Data2VecAudioConfig]
)
def test_every_kin_of_wav2vec2(config: type) -> None:
    more = {"conv_dim": (16,) * 13, "squeeze_factor": 2} if config is t.SEWConfig else {}
    base, extractor = _wav2vec2(getattr(t, config.__name__.replace("Config", "ForCTC")), config, **more)()
    mapping = hr.CtcConfig(symbols=LETTERS, start="random")
    model = hr.get_reprogram_model(
        base, hr.ReprogramConfig(program="waveform", mapping=mapping, canvas={"samples": CANVAS}), extractor
    )
    rows = [dict(row, text=row["text"][:2]) for row in AUDIO_ROWS[:3]]
    model(**model.collator()(rows)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


class TestLearning:
    def test_it_learns_the_words_of_two_tones(self, tmp_path: Path) -> None:
        """Mapping alone: the frozen model runs once over the rows, whose frames Trainer then sees, lengths and all."""
        model = _model(on="state")
        before = model.evaluate(AUDIO_ROWS)
        arguments = TrainingArguments(
            str(tmp_path), remove_unused_columns=False, max_steps=200, learning_rate=0.3, report_to="none",
            per_device_train_batch_size=6, disable_tqdm=True, save_strategy="no",
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = hr.make_trainer(model, arguments, AUDIO_ROWS, AUDIO_ROWS)
        assert trainer.train_dataset[0]["readout"].shape == (9, 33)
        trainer.train()
        after = model.evaluate(AUDIO_ROWS)
        assert after["loss"] < 0.1 < before["loss"] and after["cer"] == after["wer"] == 0.0 and after["n"] == 6
        found = trainer.evaluate()
        assert found["eval_cer"] == 0.0 and found["eval_loss"] == pytest.approx(after["loss"], rel=1e-3)

    def test_a_kept_cache_of_frames_is_the_frames(self, tmp_path: Path) -> None:
        model = _model()
        rows = model.frozen_rows(AUDIO_ROWS, cache=tmp_path)
        again = model.frozen_rows(AUDIO_ROWS, cache=tmp_path)  # four rows are verified
        assert torch.equal(rows.values, again.values) and rows.values.shape == (6, 9, 31)
        live = model(**model.collator()(AUDIO_ROWS)).loss
        assert model(readout=rows.values, labels=rows.labels).loss.item() == pytest.approx(live.item(), rel=1e-6)

    def test_a_map_of_states_begins_from_nothing_and_learns_faster(self) -> None:
        assert _model().learning_rates() == {"mapping": 1e-3} and _model(on="state").learning_rate == 3e-2

    def test_its_weights_can_be_drawn(self) -> None:
        names, weights = _model().active_mapping().weights()
        assert (
            weights.shape == (len(LETTERS), len(names)) == (7, 30)
            and _model(on="state").active_mapping().weights() is None
        )
        plot_mapping(_model())

    def test_what_is_loaded_writes_the_same(self, tmp_path: Path) -> None:
        model = _model(program="waveform")
        train_step(model)
        model.save_pretrained(tmp_path)
        again = hr.AutoReprogramModel.from_pretrained(tmp_path, *tiny("wav2vec2-ctc"))
        assert again.peft_config["default"].mapping == model.peft_config["default"].mapping
        assert again.predict(AUDIO_ROWS) == model.predict(AUDIO_ROWS)


class TestWriting:
    def test_greedily_by_hand(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """b b - a a - a: of equal neighbours one, blanks dropped. Its score is the geometric mean over four frames."""
        model = _model()
        path, best = [2, 2, 0, 1, 1, 0, 1], [0.5, 0.9, 0.8, 0.6, 0.7, 0.9, 1.0]
        probabilities = torch.zeros(1, 7, 8)
        for frame, (symbol, p) in enumerate(zip(path, best, strict=True)):
            probabilities[0, frame] = (1 - p) / 7
            probabilities[0, frame, symbol] = p
        mapping, mask = model.active_mapping(), torch.ones(1, 7, dtype=torch.bool)
        monkeypatch.setattr(mapping, "forward", lambda readout: probabilities.log())
        monkeypatch.setattr(model.backbone, "run", lambda batch, reading: Readout(probabilities, mask, "frames"))
        (answer,) = model.predict(AUDIO_ROWS[:1])
        assert answer["text"] == "baa"
        assert answer["score"] == pytest.approx((0.5 * 0.9 * 0.8 * 0.6 * 0.7 * 0.9) ** (1 / 7), rel=1e-5)

    def test_edits_by_hand(self) -> None:
        assert edit_distance("", "abc") == 3 and edit_distance("abc", "") == 3 and edit_distance("abc", "abd") == 1
        found = text_errors(["the cat", "no"], ["the cats sat", ""])
        assert found == {"cer": (5 + 2) / 12, "wer": (2 + 1) / 3}

    def test_metrics_of_a_trainer_are_of_ids(self) -> None:
        logits = torch.full((1, 4, 3), -100.0)  # the last two frames are filled up by Trainer
        logits[0, 0, 2] = logits[0, 1, 1] = 0.0
        assert metrics(logits, torch.tensor([[2, 2, -100]]), "transcription") == {"cer": 0.5}

    def test_symbols_may_be_longer_than_a_letter(self) -> None:
        options = hr.CtcConfig(symbols=["s", "ch", "sch", "."], start="random")
        assert options.encode("schs.ch", None, "") == [3, 1, 4, 2] and options.decode([3, 1, 4, 2], None) == "schs.ch"

    def test_pipeline_card_and_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        model = _model()
        model.backbone.base.save_pretrained(tmp_path / "base")
        model.processing_class.save_pretrained(tmp_path / "base")
        model.backbone.base.config._name_or_path = model.peft_config["default"].base_model_name_or_path = str(
            tmp_path / "base"
        )
        model.save_pretrained(tmp_path / "program")
        clip, sound = tmp_path / "clip.wav", AUDIO_ROWS[0]["audio"]
        soundfile.write(clip, sound["array"], sound["sampling_rate"], subtype="FLOAT")
        (expected,) = model.predict([str(clip)])
        for task in (None, "automatic-speech-recognition"):
            write = hr.pipeline(task, model)
            assert write(str(clip)) == write([sound])[0] == write({"audio": str(clip)}) == expected
        with pytest.raises(UsageError, match="the program writes texts"):
            hr.pipeline("audio-classification", model)
        with pytest.raises(UsageError, match="unknown option 'top_k'"):
            hr.pipeline(None, model)(str(clip), top_k=2)
        card = (tmp_path / "program" / "README.md").read_text()
        assert "pipeline_tag: automatic-speech-recognition" in card and "| symbols | `a b d e f i n` |" in card
        assert "print(model.predict([" in card
        assert main(["predict", str(tmp_path / "program"), "--audio", str(clip)]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["text"] == expected["text"] and answer["audio"] == str(clip)
        rows = tmp_path / "rows.jsonl"
        rows.write_text(json.dumps({"audio": str(clip), "said": "bad"}))
        assert main(["evaluate", str(tmp_path / "program"), str(rows), "--label", "said"]) == 0
        assert json.loads(capsys.readouterr().out)["n"] == 1


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"symbols": []}, "CtcConfig.symbols"),
            ({"symbols": ["a", "a"]}, "different symbols"),
            ({"symbols": "abc"}, "CtcConfig.symbols: 'abc' is a str"),
            ({"on": "letters"}, "not a choice"),
        ],
    )
    def test_options(self, options: dict, says: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(says)):
            hr.CtcConfig(**{"symbols": LETTERS, **options})

    def test_a_base_without_frames_or_without_tokenizer(self) -> None:
        with pytest.raises(ConfigError, match="'ctc' reads frames, and a Wav2Vec2ForSequenceClassification gives"):
            _model("wav2vec2-classifier")
        base, processor = tiny("wav2vec2-ctc")
        with pytest.raises(ConfigError, match="AutoProcessor"):
            hr.get_reprogram_model(
                base, hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=LETTERS)), processor.feature_extractor
            )

    def test_a_layer_of_the_base_s_own_letters(self) -> None:
        with pytest.raises(ConfigError, match="CtcConfig.layer: 1 with on='tokens'. Expected on='state'"):
            _model(layer=1)

    def test_kinds_of_targets(self) -> None:
        assert hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=LETTERS)).problem_type == "transcription"
        with pytest.raises(ConfigError, match="'regression' with the mapping 'ctc'"):
            hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=LETTERS), problem_type="regression")
        with pytest.raises(ConfigError, match="'transcription' with the mapping 'linear'"):
            hr.ReprogramConfig(mapping="linear", labels=["a", "b"], problem_type="transcription")
        with pytest.raises(ConfigError, match="class_weight"):
            weights = dict.fromkeys(LETTERS, 1.0)
            hr.ReprogramConfig(mapping=hr.CtcConfig(symbols=LETTERS), class_weight=weights)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("bad!", r"has \['!'\]"),
            (3, "3 is a int"),
            ("", r"rows\[0\]\['text'\]: '' is empty. Expected what is said. Fix: drop such rows"),
            (" ", r"rows\[0\]\['text'\]: ' ' is empty"),
            ("abababababab", "12 symbols, 0 of them doubled, in 5 frames"),
        ],
    )
    def test_texts(self, text: object, says: str) -> None:
        model = _model()
        with pytest.raises(DataError, match=says):
            model(**model.collator()([dict(AUDIO_ROWS[0], text=text)]))

    def test_rows_without_texts_or_without_scores(self) -> None:
        model = _model()
        sound = {"audio": AUDIO_ROWS[0]["audio"]}
        with pytest.raises(DataError, match=r"rows\[0\]\['label'\]: 3 is a int. .*a column \"text\""):
            model.collator()([{**sound, "label": 3}])
        with pytest.raises(DataError, match=r"rows\[1\]\['text'\]: missing.*texts on all rows"):
            model.collator()([{**sound, "text": "bad"}, {**sound, "text": None}])
        with pytest.raises(DataError, match="has no text"):
            model.evaluate([{"audio": AUDIO_ROWS[0]["audio"]}])
        with pytest.raises(UsageError, match="writes texts"):
            model.score(AUDIO_ROWS)
        with model.disable_adapter(), pytest.raises(UsageError, match="disabled"):
            model.predict(AUDIO_ROWS)

    def test_programs_of_two_kinds_in_one_pass(self) -> None:
        model = _model()
        linear = {"type": "linear", "pool": "mean", "solver": "gradient"}
        model.add_adapter("other", hr.ReprogramConfig(mapping=linear, labels=["a", "b"], canvas={"samples": CANVAS}))
        columns = model.collator()(
            [{"audio": r["audio"], "adapter": n} for r, n in zip(AUDIO_ROWS, ("default", "other"), strict=False)]
        )
        with pytest.raises(UsageError, match="beside others in one forward pass"):
            model(**columns)
