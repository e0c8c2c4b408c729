"""Words as a prompt: where they start, how they are drawn, learned by gradients and by answers alone, and read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError
from hf_reprogram.sources.channel import Channel
from hf_reprogram.sources.remote import RemoteForSequenceClassification, RemoteTextConfig
from hf_reprogram.testing import ROWS, build, tiny
from hf_reprogram.testing.helpers import LABELS
from hf_reprogram.tools.score_function import surrogate


CHOICES = [" good", " bad", " day", " book", " love"]
MEAN = hr.LinearConfig(on="state", pool="mean")


def words(**more: Any) -> hr.WordsConfig:
    return hr.WordsConfig(**{"template": "{prompt:2} {text}", "words": CHOICES, "init_text": " good day"} | more)


def model_of(program: Any, mapping: Any = MEAN, family: str = "llama") -> hr.ReprogramModel:
    return build(hr.ReprogramConfig(program=program, mapping=mapping, labels=LABELS), family)


def columns_of(model: hr.ReprogramModel) -> dict[str, Any]:
    collator = model.collator()
    return collator.stack(collator.lay_out(ROWS, labelled=False))


def test_it_reads_as_its_text_stood_there() -> None:
    model = model_of(words())
    program, tokenizer = model.active_programs()[0], model.processing_class
    batch = model.reprogrammed.batch(**columns_of(model))
    ids = program.read(batch)
    for row, there in zip(ids, program.places(batch), strict=True):
        assert tokenizer.decode(row[there].tolist()) == " good day"
    plain = model_of({"type": "none", "template": " good day {text}"})
    reading = hr.Reading("state", pool="first")
    found, same = (m.reprogrammed.readout(columns_of(m), reading) for m in (model, plain))
    torch.testing.assert_close(found, same, atol=1e-5, rtol=1e-4)
    chances = program.table.softmax(1)
    assert chances.max(1).values.tolist() == pytest.approx([0.5, 0.5])  # keep


def test_drawn_candidates_are_words_of_the_base() -> None:
    base, tokenizer = tiny("bert")
    config = hr.ReprogramConfig(program=hr.WordsConfig(template="{prompt:3} {text}", candidates=20), mapping=MEAN,
                                labels=LABELS)  # fmt: skip
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    tokens = model.active_programs()[0].tokens.tolist()
    assert len(set(tokens)) == 20 and not set(tokens) & set(tokenizer.all_special_ids)


def test_the_gradient_by_answers_alone_is_that_of_the_expected_loss() -> None:
    """M§B.4: p = (.5, .3, .2) and losses (1, 2, 0) give (-.05, .27, -.22)."""
    logits = torch.tensor([0.5, 0.3, 0.2]).log().requires_grad_()
    losses = torch.tensor([1.0, 2.0, 0.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(logits.detach().exp(), 400_000, replacement=True, generator=generator)
    surrogate(losses[draws].view(-1, 2).T, logits.log_softmax(0)[draws].view(-1, 2).T).backward()
    assert logits.grad.tolist() == pytest.approx([-0.05, 0.27, -0.22], abs=0.005)


def test_a_word_that_helps_is_found_by_gradients() -> None:
    model = model_of(words(init_text=None), hr.LinearConfig(on="state", pool="mean", solver="gradient"))
    program = model.active_programs()[0]
    before = program.table.detach().clone()
    model.train()
    loss = model(**model.collator()(ROWS)).loss
    loss.backward()
    assert program.table.grad.abs().sum() > 0 and torch.equal(before, program.table.detach())


def said(texts: Sequence[str]) -> list[list[float]]:
    """A model that tells the label only after the word love."""
    good = [float(text.count("good") - text.count("bad")) for text in texts]
    told = [float(text.startswith(" love")) for text in texts]
    return [[g * t, -g * t] for g, t in zip(good, told, strict=True)]


def test_a_word_that_opens_a_model_that_is_asked() -> None:
    """The tiny tokenizer knows few words, so the model is made by hand: `remote_text` takes none that loses any."""
    tokenizer = tiny("llama")[1]
    labelled = (("so good", "positive"), ("so bad", "negative"))
    rows = [{"text": f"{n} {text}", "label": label} for n in ("film", "phone", "book") for text, label in labelled]
    base = RemoteForSequenceClassification(
        RemoteTextConfig(source="opened", vocab_size=len(tokenizer), id2label={0: "yes", 1: "no"}), tokenizer
    ).eval()
    base.model.channel = Channel(said, "opened", 2)
    config = hr.ReprogramConfig(
        program=words(template="{prompt:1} {text}", init_text=" bad", keep=0.3), labels=LABELS,
        mapping=hr.LabelsConfig(method="given", groups={"positive": ["yes"], "negative": ["no"]}),
    )  # fmt: skip
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    model.fit_mapping(rows)
    assert model.evaluate(rows)["accuracy"] == 0.5
    losses = hr.fit_by_score(model, rows, epochs=30, samples=4, batch_size=6, learning_rate=0.3)
    program = model.active_programs()[0]
    assert tokenizer.decode(program.tokens[program.table.argmax(1)].tolist()) == " love" and losses[-1] < losses[0]
    assert model.evaluate(rows)["accuracy"] == 1.0
    assert "love" in str(model.explain())
    assert base.model.channel.sent < base.model.channel.wanted / 10  # what was drawn again was not asked again


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"template": "{text}"}, "at least one .prompt:N."),
        ({"words": [" good"]}, "at least two words"),
        ({"words": [" good", " good"]}, "each once"),
        ({"words": [" good", " good day"]}, "no single token"),
        ({"init_text": " good"}, "2, one for each slot"),
        ({"init_text": " good film"}, "none of words"),
        ({"temperature": 0.1, "final_temperature": 1.0}, "at most that"),
    ],
    ids=str,
)
def test_what_cannot_be_meant(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model_of(words(**change))
