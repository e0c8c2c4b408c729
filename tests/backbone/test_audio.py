"""The speech backbone: what it reads is what the base says, on every kind; what it does not leave behind."""

from __future__ import annotations

import pytest
import torch
import transformers as t

import hf_reprogram as hr
from hf_reprogram.backbone import backbone_of
from hf_reprogram.backbone.kinds import kind_of
from hf_reprogram.backbone.probe import probe
from hf_reprogram.batch import Batch, Reading
from hf_reprogram.errors import BaseModelError, ConfigError, UsageError
from hf_reprogram.processors import check_processor, extractor_of, tokenizer_of
from hf_reprogram.testing import AUDIO_FAMILIES, AUDIO_ROWS, flags, tiny
from hf_reprogram.testing.audio import AUDIO_KIN, CANVAS


def _batch(backbone: object, samples: int = CANVAS) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(input_values=0.1 * torch.randn(2, samples, generator=generator))


def _backbone(family: str) -> object:
    return backbone_of(*tiny(family))


@pytest.mark.parametrize("family", [*AUDIO_FAMILIES, *AUDIO_KIN])
def test_our_features_are_the_extractors(family: str) -> None:
    assert probe(_backbone(family))["features"] < 1e-4


@pytest.mark.parametrize("family", [*AUDIO_FAMILIES, *AUDIO_KIN])
def test_a_gradient_reaches_the_wave_in_training_mode(family: str) -> None:
    """S1, S2, S3: what the program changed is no leaf, and the base sleeps whatever Trainer says."""
    base, extractor = tiny(family)
    config = hr.ReprogramConfig(mapping={"type": "linear", "pool": "mean", "solver": "gradient"}, labels=["a", "b"])
    model = hr.get_reprogram_model(base, config, processing_class=extractor).train()
    assert not any(m.training for m in base.modules())
    backbone = model.backbone
    wave = _batch(backbone, backbone.facts.canvas).input_values.requires_grad_()
    found = backbone.run(Batch(input_values=wave * 1.0), Reading("state", pool="statistics")).values
    assert found.shape == (2, backbone.state_size("statistics"))
    found.square().sum().backward()
    assert wave.grad.isfinite().all() and wave.grad.abs().sum() > 0
    assert all(p.grad is None for p in base.parameters())


def test_kinds_and_what_they_give() -> None:
    found = {family: kind_of(tiny(family)[0]) for family in AUDIO_FAMILIES}
    assert found["wav2vec2-classifier"] == found["ast-classifier"] == "speech-classifier"
    assert found["wav2vec2-ctc"] == "speech-ctc" and found["hubert-encoder"] == "speech-encoder"
    assert found["whisper-seq2seq"] == found["moonshine-seq2seq"] == "speech-seq2seq"
    with pytest.raises(BaseModelError, match="Wav2Vec2ForPreTraining has no head that we can read"):
        kind_of(t.Wav2Vec2ForPreTraining(tiny("wav2vec2-ctc")[0].config))


def test_states_are_the_encoders() -> None:
    backbone = _backbone("hubert-encoder")
    batch = _batch(backbone)
    inputs = backbone.frontend.features(batch.input_values)
    with torch.no_grad():
        states = backbone.base(**inputs, output_hidden_states=True)
        mean = backbone.run(batch, Reading("state", pool="mean")).values
        both = backbone.run(batch, Reading("state", pool="statistics")).values
        first = backbone.run(batch, Reading("state", pool="first", layer=1)).values
    last = states.last_hidden_state
    assert torch.allclose(mean, last.mean(1), atol=1e-6)
    assert torch.allclose(both, torch.cat([last.mean(1), last.std(1, unbiased=False)], 1), atol=1e-5)
    assert torch.allclose(first, states.hidden_states[1][:, 0], atol=1e-6)


@torch.no_grad()
def test_parts_of_time_are_pooled_each_for_itself() -> None:
    """As even as they can be, the first ones longer; side by side, each part's mean before its deviation."""
    backbone = _backbone("hubert-encoder")
    batch = _batch(backbone)
    states = backbone.base(**backbone.frontend.features(batch.input_values)).last_hidden_state
    longer = -(-states.shape[1] // 2)
    first, second = states[:, :longer], states[:, longer:]
    found = backbone.run(batch, Reading("state", pool="statistics", parts=2)).values
    told = [part for half in (first, second) for part in (half.mean(1), half.std(1, unbiased=False))]
    assert found.shape == (2, backbone.state_size("statistics", parts=2))
    assert torch.allclose(found, torch.cat(told, 1), atol=1e-5)
    with pytest.raises(ConfigError, match=f"at most {states.shape[1]}"):
        backbone.run(batch, Reading("state", pool="mean", parts=999))


def test_rows_are_the_decoders_first_step() -> None:
    backbone = _backbone("moonshine-seq2seq")
    batch = _batch(backbone)
    prefix = torch.tensor([[backbone.base.config.decoder_start_token_id]] * 2)
    with torch.no_grad():
        full = backbone.base(input_values=batch.input_values, decoder_input_ids=prefix).logits[:, -1]
        some = backbone.run(batch, Reading("rows", ids=(3, 50, 7))).values
        every = backbone.run(batch, Reading("rows")).values
    assert torch.allclose(every, full, atol=1e-5) and torch.allclose(some, full[:, [3, 50, 7]], atol=1e-5)


def test_frames_are_the_ctc_heads() -> None:
    backbone = _backbone("wav2vec2-ctc")
    batch = _batch(backbone)
    with torch.no_grad():
        full = backbone.base(**backbone.frontend.features(batch.input_values)).logits
        assert torch.equal(backbone.run(batch, Reading("frames")).values, full)


class TestAWhisperOfAShorterCanvas:
    """S13: thirty seconds cost eighteen times two. A shorter canvas is another model, and says so in the config."""

    def test_for_one_call_and_not_a_moment_longer(self) -> None:
        backbone = _backbone("whisper-seq2seq")
        table, own = backbone.body.embed_positions, backbone.base.config.max_source_positions
        with torch.no_grad():
            found = backbone.run(_batch(backbone, 3200), Reading("state", pool="mean")).values
            whole = backbone.run(_batch(backbone, 16000), Reading("state", pool="mean")).values
        assert found.shape == whole.shape == (2, 32)
        assert backbone.body.embed_positions is table and backbone.base.config.max_source_positions == own == 50

    def test_it_is_what_a_model_with_fewer_positions_computes(self) -> None:
        backbone = _backbone("whisper-seq2seq")
        base, extractor = tiny("whisper-seq2seq")
        batch = _batch(backbone, 3200)
        base.config.max_source_positions = 10
        encoder = base.get_encoder()
        encoder.embed_positions = torch.nn.Embedding.from_pretrained(encoder.embed_positions.weight[:10])
        short = t.WhisperFeatureExtractor(chunk_length=1)
        short.n_samples, short.nb_max_frames = 3200, 20
        features = short([w.numpy() for w in batch.input_values], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            theirs = encoder(features["input_features"][..., :20]).last_hidden_state.mean(1)
            ours = backbone.run(batch, Reading("state", pool="mean")).values
        assert torch.allclose(ours, theirs, atol=1e-5)

    def test_put_back_after_an_error(self) -> None:
        backbone = _backbone("whisper-seq2seq")
        table = backbone.body.embed_positions
        broken = Batch(input_values=torch.zeros(2, 3200), hooks=(("layer:0", lambda *_: 1 / 0),))
        with pytest.raises(ZeroDivisionError):
            backbone.run(broken, Reading("state", pool="mean"))
        assert backbone.body.embed_positions is table
        assert not any(m._forward_pre_hooks for m in backbone.base.modules())

    def test_a_length_between_two_positions_is_refused(self) -> None:
        backbone = _backbone("whisper-seq2seq")
        with pytest.raises(ConfigError, match=r"CanvasConfig\.samples: 3300 samples.*multiple of 320.*3200 would do"):
            backbone.run(_batch(backbone, 3300), Reading("state", pool="mean"))


class TestRefusals:
    def test_a_base_that_hears_needs_its_extractor(self) -> None:
        base, _ = tiny("hubert-encoder")
        for given, shown in ((None, "None"), (tiny("llama")[1], "TokenizersBackend|PreTrainedTokenizerFast")):
            with pytest.raises(BaseModelError, match=f"processing_class: .*({shown}).*its feature extractor"):
                hr.get_reprogram_model(base, hr.ReprogramConfig(), processing_class=given)

    def test_an_unknown_extractor(self) -> None:
        base, _ = tiny("hubert-encoder")
        with pytest.raises(BaseModelError, match="EncodecFeatureExtractor is no feature extractor that we can"):
            hr.get_reprogram_model(base, hr.ReprogramConfig(), processing_class=t.EncodecFeatureExtractor())

    def test_text_for_a_base_that_hears_and_sound_for_one_that_reads(self) -> None:
        base, extractor = tiny("hubert-encoder")
        linear = {"type": "linear", "pool": "mean", "solver": "gradient"}
        prompt = {"type": "prompt", "template": "{p:2} {text}"}
        fit = "'prompt' changes tokens, and a HubertModel takes wave, latent. Expected one of latent_bridge.*waveform"
        with pytest.raises(ConfigError, match=fit):
            config = hr.ReprogramConfig(program=prompt, mapping=linear, labels=["a", "b"])
            hr.get_reprogram_model(base, config, processing_class=extractor)
        model = hr.get_reprogram_model(
            base, hr.ReprogramConfig(mapping=linear, labels=["a", "b"]), processing_class=extractor
        )
        with pytest.raises(UsageError, match="text for a model that hears"):
            model(input_ids=torch.ones(1, 3, dtype=torch.long))
        text = hr.get_reprogram_model(*_text())
        with pytest.raises(UsageError, match="sound for a text model"):
            text(input_values=torch.zeros(1, 100))

    def test_a_canvas_is_for_sound(self) -> None:
        base, config, tokenizer = _text()
        config.canvas = hr.CanvasConfig(samples=100)
        with pytest.raises(ConfigError, match="ReprogramConfig.canvas: given for a base that reads"):
            hr.get_reprogram_model(base, config, processing_class=tokenizer)

    def test_a_canvas_longer_than_the_base_can_hear(self) -> None:
        base, extractor = tiny("ast-classifier")
        with pytest.raises(ConfigError, match=r"CanvasConfig\.samples: 99999, and a ASTForAudioClassification hears"):
            hr.get_reprogram_model(base, hr.ReprogramConfig(canvas={"samples": 99999}), processing_class=extractor)

    def test_a_layer_that_is_not_there(self) -> None:
        base, extractor = tiny("hubert-encoder")
        config = hr.ReprogramConfig(mapping={"type": "linear", "pool": "mean", "layer": 9}, labels=["a", "b"])
        with pytest.raises(BaseModelError, match="layer: 9 of 3"):
            hr.get_reprogram_model(base, config, processing_class=extractor)
        with pytest.raises(ConfigError, match="LinearConfig.layer: 1 of a base that reads"):
            base, config, tokenizer = _text()
            mapping = {"type": "linear", "pool": "mean", "layer": 1}
            hr.get_reprogram_model(base, hr.ReprogramConfig(mapping=mapping, labels=["a", "b"]), tokenizer)

    def test_an_extractor_of_another_kind_of_model(self) -> None:
        for family, other in (("hubert-encoder", "whisper-seq2seq"), ("hubert-encoder", "ast-classifier"),
                              ("ast-classifier", "hubert-encoder")):  # fmt: skip
            base, processor = tiny(family)[0], tiny(other)[1]
            with pytest.raises(BaseModelError, match="processing_class: .*FeatureExtractor for a .*, which takes a"):
                hr.get_reprogram_model(base, hr.ReprogramConfig(), processing_class=processor)

    def test_an_answer_of_a_base_that_never_answers(self) -> None:
        base, extractor = tiny("wav2vec2-classifier")
        config = hr.ReprogramConfig(mapping="linear", labels=["a", "b"])
        with pytest.raises(ConfigError, match=r"LinearConfig\.pool: 'answer', and a Wav2Vec2.* no decoder.*'mean'"):
            hr.get_reprogram_model(base, config, processing_class=extractor)

    def test_an_encoder_and_decoder_without_a_head(self) -> None:
        base, processor = tiny("moonshine-seq2seq")
        with pytest.raises(
            BaseModelError, match="without a head.*AutoModelForSpeechSeq2Seq; its encoder is read with"
        ):
            hr.get_reprogram_model(base.model, hr.ReprogramConfig(), processing_class=processor)

    def test_generation_needs_a_decoder(self) -> None:
        with pytest.raises(UsageError, match="HubertModel writes no text"):
            _backbone("hubert-encoder").generate(Batch(input_values=torch.zeros(1, 100)))


def _text() -> tuple[object, hr.ReprogramConfig, object]:
    base, tokenizer = tiny("llama")
    words = {"a": [" good"], "b": [" bad"]}
    return base, hr.ReprogramConfig(program={"type": "none", "template": "{text}{answer}"},
                                    mapping={"type": "verbalizer", "words": words}), tokenizer  # fmt: skip


def test_the_audio_encoders_own_flag_is_put_back() -> None:
    """S1: `_requires_grad` is off while the base sleeps, and on again after unload."""
    base, extractor = tiny("wav2vec2-classifier")
    found, held = flags(base), [m for m in base.modules() if "_requires_grad" in vars(m)]
    assert held and all(m._requires_grad for m in held)
    model = hr.get_reprogram_model(base, hr.ReprogramConfig(), processing_class=extractor)
    assert not any(m._requires_grad for m in held)
    model.unload()
    assert all(m._requires_grad for m in held) and flags(base) == found


def test_batchnorm_of_a_sleeping_base_stays() -> None:
    """S17: running statistics do not drift while a program trains."""
    config = t.HubertConfig(**{**tiny("hubert-encoder")[0].config.to_dict(), "conv_pos_batch_norm": True})
    base, extractor = t.HubertModel(config), tiny("hubert-encoder")[1]
    before = {k: v.clone() for k, v in base.state_dict().items()}
    linear = {"type": "linear", "pool": "mean", "solver": "gradient"}
    config = hr.ReprogramConfig(mapping=linear, labels=["negative", "positive"], canvas={"samples": CANVAS})
    model = hr.get_reprogram_model(base, config, processing_class=extractor).train()
    model(**model.collator()(AUDIO_ROWS)).loss.backward()
    assert all(torch.equal(before[k], v) for k, v in base.state_dict().items())


def test_writing_text() -> None:
    base, processor = tiny("moonshine-seq2seq")
    model = hr.get_reprogram_model(base, hr.ReprogramConfig(canvas={"samples": CANVAS}), processing_class=processor)
    written = model.generate(AUDIO_ROWS[:2], max_new_tokens=3)
    batch = model.collator()([{**row, "label": None} for row in AUDIO_ROWS[:2]])
    own = base.generate(input_values=batch["input_values"], max_new_tokens=3)
    assert torch.equal(written, own)


def test_processors() -> None:
    _, processor = tiny("whisper-seq2seq")
    assert tokenizer_of(processor) is processor.tokenizer and extractor_of(processor) is processor.feature_extractor
    assert tokenizer_of(processor.feature_extractor) is None and extractor_of(processor.tokenizer) is None
    with pytest.raises(ConfigError, match="processing_class: 'name' is a str"):
        check_processor("name")
