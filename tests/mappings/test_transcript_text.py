"""`transcript` on bases that read: a target text has the base's own probability, and prompts learn to write one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.testing import tiny
from hf_reprogram.training.job import wanted_columns


ROWS = [
    {"text": "this film was so good", "label": "very good film"},
    {"text": "my phone broke", "label": "bad"},
    {"text": "i love this book and would buy it again", "label": "great book"},
]
PROMPT = {"type": "prompt", "template": "{prompt:3} {text} it was{answer}"}


def _model(family: str, program: object = None, **options: object) -> hr.ReprogramModel:
    base, tokenizer = tiny(family)
    mapping = {"type": "transcript", "most": 4, **options}
    config = hr.ReprogramConfig(program=program or PROMPT, mapping=mapping)
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


@pytest.mark.parametrize(("family", "lead"), [("llama", " "), ("gpt2", " "), ("gemma3", "")])
def test_the_loss_of_a_causal_base_is_its_own(family: str, lead: str) -> None:
    """By hand: the whole row as ids, the loss over the target's tokens and the end."""
    model = _model(family, {"type": "none", "template": "{text} it was{answer}"})
    base, tokenizer = model.backbone.base, model.processing_class
    total, count = 0.0, 0
    for row in ROWS:
        before = tokenizer(f"{row['text']} it was")["input_ids"]
        before = [i for i in before if i != tokenizer.eos_token_id]
        after = [*tokenizer(lead + row["label"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ids = torch.tensor([before + after])
        scores = base(input_ids=ids).logits[0].log_softmax(-1)
        total -= float(sum(scores[len(before) - 1 + j, token] for j, token in enumerate(after)))
        count += len(after)
    assert model(**model.collator()(ROWS)).loss.item() == pytest.approx(total / count, rel=1e-5)
    assert model.evaluate(ROWS, batch_size=2)["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_that_of_a_decoder_too(family: str) -> None:
    model = _model(family, {"type": "none", "template": "{text}{answer}"})
    columns = model.collator()(ROWS)
    texts = {"input_ids": columns["input_ids"], "attention_mask": columns["attention_mask"]}
    prefix = torch.tensor(model.backbone.decoder_prefix).expand(len(ROWS), -1)
    steps = torch.cat([prefix, columns["labels"][:, :-1].clamp(min=0)], 1)
    scores = model.backbone.base(**texts, decoder_input_ids=steps).logits[:, prefix.shape[1] - 1 :]
    own = torch.nn.functional.cross_entropy(scores.flatten(0, 1), columns["labels"].flatten(), ignore_index=-100)
    assert model(**columns).loss.item() == pytest.approx(own.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
def test_what_it_writes_is_the_likeliest_at_every_step(family: str) -> None:
    """By hand: the text so far as the target, one token more each time; the score is what evaluation says of it."""
    model, row = _model(family), {"text": ROWS[0]["text"]}
    collator, tokenizer, written, steps = model.collator(), model.processing_class, [], []
    while len(written) < 4 and not set(written) & set(model.backbone.ends):
        made = [collator.lay_out([row])[0] for _ in range(model.backbone.vocab_size)]
        for token, laid in enumerate(made):
            laid.words = ((*written, token),)
        batch = model.reprogrammed.batch(**collator.stack(made))
        with torch.no_grad():
            batch = model.reprogrammed.program(batch, model.backbone)
            found = model.backbone.run(batch, hr.Reading("text")).values[:, -1]  # (vocabulary,)
        written.append(int(found.argmax()))
        steps.append(found.max())
    (answer, _) = model.predict([ROWS[0], ROWS[1]])
    kept = [i for i in written if i not in model.backbone.ends]
    assert answer["text"] == tokenizer.decode(kept, skip_special_tokens=True).strip()
    assert answer["score"] == pytest.approx(torch.stack(steps).mean().exp().item(), rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_prompt_learns_to_write_a_text(family: str, tmp_path: Path) -> None:
    model = _model(family)
    rows = [{**row, "label": "fine movie"} for row in ROWS]
    columns, before = model.collator()(rows), model.evaluate(rows)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.3)
    model.train()
    for _ in range(60):
        optimizer.zero_grad()
        model(**columns).loss.backward()
        optimizer.step()
    model.eval()
    assert model.evaluate(rows)["loss"] < before["loss"] - 0.2
    model.save_pretrained(tmp_path)
    again = hr.AutoReprogramModel.from_pretrained(tmp_path, *tiny(family))
    assert again.predict(rows) == model.predict(rows)
    written = hr.pipeline(model=again)([row["text"] for row in rows])
    assert [each[0]["generated_text"] for each in written] == [a["text"] for a in model.predict(rows)]
    assert hr.pipeline("text-generation", again, max_new_tokens=1)("so good") != written[0]


def test_a_target_is_never_cut_and_the_text_is() -> None:
    """64 positions: what stands before the target loses its end, not the target."""
    model = _model("llama")
    long = {"text": " ".join(["good"] * 100), "label": " ".join(["bad"] * 20)}
    (row,) = model.collator().lay_out([long])
    columns = model.collator().stack([row])
    assert columns["input_ids"].shape[1] == 64 and len(row.label) == 21
    with pytest.raises(DataError, match=r"rows\[0\].*71 tokens leaves no room for the row.*64 positions"):
        model.collator()([{"text": "good", "label": " ".join(["bad"] * 70)}])
    decoder = _model("bart")
    with pytest.raises(DataError, match="64 tokens, its end among them, and the base has room for 63"):
        decoder.collator()([{"text": "good", "label": " ".join(["bad"] * 63)}])  # its decoder begins with two tokens
    assert decoder(**decoder.collator()([{"text": "good", "label": " ".join(["bad"] * 62)}])).loss.isfinite()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, r"rows\[0\]\['label'\]: int 3 is no text. Expected the text that is to be written"),
        ("  ", r"rows\[0\]\['label'\]: '  ' is empty"),
        ("zebra", r"rows\[0\]\['label'\]: 'zebra' has parts that the tokenizer does not know"),
    ],
)
def test_labels_that_are_no_texts(label: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _model("llama").collator()([{"text": "so good", "label": label}])


def test_labels_that_stand_for_texts() -> None:
    """Ids of a dataset's classes are written by the names of these."""
    model = _model("llama")
    (row,) = model.collator(features=["bad film", "good film"]).lay_out([{"text": "so good", "label": 1}])
    assert row.label == model.collator().lay_out([{"text": "so good", "label": "good film"}])[0].label


def test_a_pipeline_keeps_to_the_program_s_length() -> None:
    """With options too: as many tokens as `most`, and no space before them."""
    model = _model("llama")
    (told,) = hr.pipeline(model=model)("so good", do_sample=False)
    assert told["generated_text"] == model.predict(["so good"])[0]["text"]


def test_rows_without_targets() -> None:
    """They can be written for, not scored: the column of their own text is no target."""
    model = _model("llama")
    rows = [{"text": row["text"]} for row in ROWS]
    with pytest.raises(DataError, match='has no label. Expected a "label" column'):
        model.evaluate(rows)
    with pytest.raises(UsageError, match="a text's probability is asked for"):
        model(**model.collator()(rows))
    assert len(model.predict(rows)) == 3


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="BertForMaskedLM gives"):
        _model("bert")
    with pytest.raises(ConfigError, match="'de' for a LlamaForCausalLM that is not asked for one"):
        _model("llama", language="de")
    with pytest.raises(hr.TemplateError, match="one answer slot, which the transcript reads"):
        _model("llama", {"type": "prompt", "template": "{prompt:3} {text}"})
    base, tokenizer = tiny("llama")
    base.generation_config.eos_token_id = None
    config = hr.ReprogramConfig(program=PROMPT, mapping={"type": "transcript"})
    with pytest.raises(ConfigError, match="ends a text with 3, the base with nothing"):
        hr.get_reprogram_model(base, config, processing_class=tokenizer)


def test_programs_that_write_and_that_classify_side_by_side() -> None:
    model = _model("llama")
    words = {"negative": [" bad"], "positive": [" good"]}
    model.add_adapter("judge", hr.ReprogramConfig(program=PROMPT, mapping=hr.VerbalizerConfig(words=words)))
    model.set_adapter("judge")
    judged = model.predict([row["text"] for row in ROWS])
    model.set_adapter("default")
    assert all(answer["label"] in words for answer in judged) and "text" in model.predict(["so good"])[0]


def test_a_recipe_takes_texts() -> None:
    config = hr.ReprogramConfig(program=PROMPT, mapping={"type": "transcript"})
    assert wanted_columns(config, {}) == ["text"]
    heard = hr.ReprogramConfig(program="waveform", mapping={"type": "transcript"})
    assert wanted_columns(heard, {}) == ["audio"]


def test_the_card_says_what_it_does(tmp_path: Path) -> None:
    model = _model("llama")
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card and "model.predict(" in card
    assert json.loads((tmp_path / "adapter_config.json").read_text())["problem_type"] == "transcription"


def test_a_base_that_cannot_go_on_from_vectors_is_refused() -> None:
    """transformers' Falcon-H1 takes ids alone in `generate`: said when the program is made, not when it writes."""
    base, tokenizer = tiny("falcon_h1")
    config = hr.ReprogramConfig(program=hr.PromptConfig(template="{prompt:2} {text}{answer}"), mapping="transcript")
    with pytest.raises(ConfigError, match="'transcript' reads text, and a FalconH1ForCausalLM gives base"):
        hr.get_reprogram_model(base, config, tokenizer)
    plain = hr.ReprogramConfig(program=hr.PromptConfig(template="{prompt:2} {text}"), mapping="none")
    with pytest.raises(UsageError, match="FalconH1ForCausalLM writes no text after vectors"):
        hr.get_reprogram_model(base, plain, tokenizer).generate(["a bad day"])
