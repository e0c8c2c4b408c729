"""Presets: each is what its paper says, takes the user's labels, and runs on a base."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pytest
import torch
import transformers as t

import hf_reprogram as hr
from hf_reprogram import presets
from hf_reprogram.errors import ConfigError
from hf_reprogram.testing import AUDIO_ROWS, build, tiny
from hf_reprogram.testing.helpers import rows_of, train_step


WORDS = {"negative": [" bad"], "positive": [" good"]}
# preset: family that it is tried on, changes it needs there, slots, where they start, what is saved.
TABLE: dict[str, tuple[str, dict[str, Any], int, str | None, set[str]]] = {
    "warp": ("bert", {}, 8, "mask", {"program.0.slots", "mapping.vectors", "mapping.bias"}),
    "prompt_tuning": ("llama", {}, 20, "vocab", {"program.0.slots"}),
    # The tiny base's embeddings are narrower than the paper's rank.
    "dept": (
        "llama",
        {"position_rank": 4},
        0,
        None,
        {"program.0.slots", "program.1.place_left", "program.1.place_right"},
    ),
    "r2dl": (
        "bert-encoder",
        {"symbols": ascii_lowercase},
        0,
        None,
        {f"program.0.{name}" for name in ("coefficients", "dropped", "support", "passes")}
        | {"mapping.matrix", "mapping.bias", "mapping.fitted"},
    ),
    "linear_probe": ("llama", {}, 0, None, {"mapping.matrix", "mapping.bias", "mapping.fitted"}),
    "voice2series": ("wav2vec2-classifier", {}, 0, "auto", {"program.0.theta", "mapping.indices"}),
    "voice2series_code": ("wav2vec2-classifier", {}, 0, "auto", {"program.0.theta", "mapping.indices"}),
    # The tiny Whisper hears a second: less than the 0.64 s of the paper would leave too little for the clips.
    "whisper_prepend": ("whisper-seq2seq", {"before": 1600}, 0, None, {"program.0.before"}),
    "vocabulary_remap": (
        "bert-classifier",
        {},
        0,
        None,
        {"program.0.table", "program.0.tokens", "program.0.steps", "mapping.indices"},
    ),
    "ar_scr": ("wav2vec2-classifier", {}, 0, "auto", {"program.0.theta", "mapping.groups", "mapping.fitted"}),
}


MUSIC = {"ii": 160_000, "id": 234_623, "ids": None}  # numbers that learn (S§3); of the third they hang on the width


def test_every_preset_has_a_row_here() -> None:
    assert presets.names() == sorted(
        [*TABLE, "cross_lingual_asr", "reprogbert", *(f"music_nmr_{kind}" for kind in MUSIC)]
    )


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_runs(name: str) -> None:
    family, changes, slots, init, saved = TABLE[name]
    config = hr.ReprogramConfig.from_preset(name, labels=WORDS, **changes)
    assert config.labels == ["negative", "positive"]
    assert getattr(config.program, "slots", 0) == slots and getattr(config.program, "init", None) == init
    assert hr.ReprogramConfig.from_dict(config.to_dict()) == config
    model = build(config, family)
    train_step(model)
    assert set(model.base_model.state("default")) == saved
    assert 0.0 <= model.evaluate(rows_of(model))["accuracy"] <= 1.0
    assert presets.preset(name)["about"]


def test_warp_is_the_paper_s() -> None:
    """T§1.1: prompts before and after the text and round the mask, copies of the label words' rows train too."""
    config = hr.ReprogramConfig.from_preset("warp", labels=WORDS)
    assert config.program.template == "{prompt:3} {text} {prompt:3} {answer} {prompt:2}"
    assert config.mapping.rows == "trained"


def test_dept_is_the_paper_s() -> None:
    """T§1.2: as many numbers as 100 vectors of width 768, in 40 vectors and an offset of rank 45; two rates."""
    config = hr.ReprogramConfig.from_preset("dept", labels=WORDS)
    prompt, embedding = config.programs
    assert prompt.slots * 768 + embedding.position_rank * (embedding.positions + 768) == 100 * 768
    assert embedding.rank == 0 and config.layout() == "{prompt:40} {text}{answer}"
    small = hr.ReprogramConfig.from_preset("dept", labels=WORDS, position_rank=4)
    assert len(set(build(small, "llama").learning_rates().values())) == 2


def test_r2dl_is_the_paper_s() -> None:
    """T§2: each of 20 amino acids as a few of the source's embeddings; its table is not written."""
    config = hr.ReprogramConfig.from_preset("r2dl", labels=["decoy", "antimicrobial"])
    assert len(config.program.symbols) == 20 and config.layout() == "{text}"
    model = build(hr.ReprogramConfig.from_preset("r2dl", labels=WORDS, symbols=ascii_lowercase), "bert-encoder")
    before = model.backbone.base.get_input_embeddings().weight.clone()
    train_step(model)
    assert model.active_programs()[0].coefficients.shape == (26, 10)
    assert torch.equal(model.backbone.base.get_input_embeddings().weight, before)


def test_voice2series_is_the_paper_s() -> None:
    """S§1: 16 000 numbers in the gaps between copies, all 36 classes in random groups, floor(36 / C) each."""
    config = hr.ReprogramConfig.from_preset("voice2series", labels=["a", "b"])
    model = build(config, "wav2vec2-classifier")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16000
    assert model.active_mapping().indices.shape == (2, 7 // 2)
    assert config.program.mask and config.canvas.place == "copies"


def test_voice2series_code_has_the_code_s_blocks() -> None:
    """S§1: target c reads source c k ... c k + k - 1, k = 1 by default; the series stands once, as it comes."""
    model = build(hr.ReprogramConfig.from_preset("voice2series_code", labels=["a", "b"]), "wav2vec2-classifier")
    assert model.active_mapping().indices.tolist() == [[0], [1]]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16000


def test_ar_scr_is_the_paper_s() -> None:
    """S§2: 16 000 numbers over the whole second, two or three source classes to a word."""
    model = build(hr.ReprogramConfig.from_preset("ar_scr", labels=["negative", "positive"]), "wav2vec2-classifier")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 16000
    assert model.active_mapping().groups.sum(1).tolist() == [3, 3]  # of seven classes one is left over
    canvas = model.peft_config["default"].canvas
    assert (canvas.samples, canvas.level) == (16000, "peak")


def test_whisper_prepend_is_the_paper_s() -> None:
    """S§5: 10,240 numbers within plus and minus 0.02, heard before the clip."""
    program = hr.ReprogramConfig.from_preset("whisper_prepend", labels=WORDS).program
    assert (program.before, program.after, program.limit) == (10_240, 0, 0.02)


def test_vocabulary_remap_is_the_paper_s() -> None:
    """T§3: a convolution over five characters, mixtures that sharpen from 2 to 0.01, the first classes as labels."""
    config = hr.ReprogramConfig.from_preset("vocabulary_remap", labels=["a", "b"])
    program = config.program
    assert (program.context, program.temperature, program.final_temperature) == (5, 2.0, 0.01)
    assert (program.estimator, program.eval_mode) == ("gumbel_softmax", "hard")
    assert build(config, "bert-classifier").active_mapping().indices.tolist() == [[0], [1]]
    assert hr.ReprogramConfig.from_preset("vocabulary_remap", labels=["a", "b"], symbols="ACGT").program.symbols


@pytest.mark.parametrize("kind", MUSIC)
def test_music_nmr_is_the_paper_s(kind: str) -> None:
    """S§3: ten seconds, 128 mels and 1024 frames; the first five source classes for the first genre, logits summed."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 10, "num_attention_heads": 2}
    base = t.ASTForAudioClassification(t.ASTConfig(**sizes, num_labels=20))
    config = hr.ReprogramConfig.from_preset(f"music_nmr_{kind}", labels=["jazz", "rock"])
    model = hr.get_reprogram_model(base, config, processing_class=t.ASTFeatureExtractor())
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learned == (MUSIC[kind] or learned) and learned > 0
    assert model.active_mapping().indices.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert model.score(AUDIO_ROWS[:1]).isfinite().all()


def test_cross_lingual_asr_learns_another_alphabet() -> None:
    """S§4: a bridge before every layer, without effect at the start, and new letters of the base's; the loss falls."""
    config = hr.ReprogramConfig.from_preset("cross_lingual_asr", labels=list("дне"), rank=4, kernel=3)
    assert config.labels == config.mapping.symbols == list("дне")
    model = build(config, "wav2vec2-ctc")
    assert model.active_programs()[0].up.shape[0] == len(model.backbone.layers[1])
    rows = [{"audio": row["audio"], "text": text} for row, text in zip(AUDIO_ROWS, ("де", "не"), strict=False)]
    columns = model.collator()(rows)
    optimizer, losses = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01), []
    for _ in range(5):
        loss = model(**columns).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    with pytest.raises(ConfigError, match="names of the labels"):
        hr.ReprogramConfig.from_preset("cross_lingual_asr")


def test_reprogbert_has_the_paper_s_numbers() -> None:
    """T§4: 2 x 30 x 30,522 of them, which learn on a BERT's vocabulary; from N(0, 0.02)."""
    config = t.BertConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    names = [*ascii_uppercase, *"abcd"]
    model = hr.get_reprogram_model(
        t.BertForMaskedLM(config), hr.ReprogramConfig.from_preset("reprogbert", labels=names), tiny("bert")[1]
    )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 1_831_320
    program, mapping = model.active_programs()[0], model.active_mapping()
    for table in (program.theta * program.unit, mapping.gamma * mapping.unit):
        assert table.mean().item() == pytest.approx(0, abs=1e-4) and table.std().item() == pytest.approx(
            0.02, rel=1e-2
        )


def test_a_label_s_name_is_its_word() -> None:
    config = hr.ReprogramConfig.from_preset("prompt_tuning", labels=["bad", "good"])
    assert config.mapping.words == {"bad": [" bad"], "good": [" good"]}


def test_changes_go_where_they_belong() -> None:
    template = "{p:4} {text} it was{answer}"
    config = hr.ReprogramConfig.from_preset("prompt_tuning", labels=WORDS, template=template, reduce="max")
    assert (config.program.template, config.mapping.reduce) == (template, "max")
    config = hr.ReprogramConfig.from_preset("linear_probe", labels=WORDS, program="none", solver="ridge")
    assert config.mapping.solver == "ridge"


def test_an_option_of_several_programs_goes_to_the_one_that_the_preset_gives_it() -> None:
    changes = {"rank": 8, "template": "{p:4} {text}{answer}"}
    prompt, embedding = hr.ReprogramConfig.from_preset("dept", labels=WORDS, **changes).program
    assert (embedding.rank, prompt.template) == (8, "{p:4} {text}{answer}")
    assert hr.ReprogramConfig.from_preset("reprogbert", symbols="ACGT").mapping.symbols == list("ACGT")
    with pytest.raises(ConfigError, match="labels=None. Expected symbols=.*did you mean 'symbols'"):
        hr.ReprogramConfig.from_preset("reprogbert", symbol="ACGT")


# What is given, and what the error says.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown preset": ({"name": "wrap", "labels": WORDS}, "unknown preset 'wrap'.*did you mean 'warp'"),
    "no labels": ({"name": "warp"}, "labels=None.*names of the labels, or words of each"),
    "a label for labels": ({"name": "warp", "labels": "good"}, "labels='good'"),
    "unknown option": ({"name": "warp", "labels": WORDS, "templat": "x"}, "templat: no such.*did you mean 'template'"),
    "wrong option": ({"name": "warp", "labels": WORDS, "init": "words"}, "PromptConfig.init_text"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[dict[str, Any], str]) -> None:
    given, says = case
    with pytest.raises(ConfigError, match=says):
        hr.ReprogramConfig.from_preset(**given)
