"""Label words of several tokens: exact log-probabilities, for causal and seq2seq bases (M§A.14)."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_reprogram.backbone import heads
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, logits_of, tiny
from hf_reprogram.testing.helpers import loss_of


WORDS = {"bad": [" not good", " bad"], "good": [" very good", " good", " so very good"]}
FAMILIES = ["llama", "gpt2", "gemma2", "t5", "bart"]


def _config(**options: object) -> ReprogramConfig:
    return ReprogramConfig(
        program={"type": "prompt", "template": "{prompt:3} {text} it was{answer}"},
        mapping={"type": "verbalizer", "words": copy.deepcopy(WORDS), "reduce": "max", **options},
    )


def _model(family: str, **options: object) -> ReprogramModel:
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, _config(**options), tokenizer)


@torch.no_grad()
def _by_hand(model: ReprogramModel, text: str) -> list[float]:
    """log p of every word, one token after the other through the base's own forward."""
    collator, backbone = model.collator(), model.backbone
    collator.for_writing()  # lays out the row without words
    columns = collator.stack(collator.lay_out([{"text": text}]))
    found = []
    for word in model.active_mapping().options.continuations():
        batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), backbone)
        embeds, prefix, total = batch.embeds, list(backbone.decoder_prefix), 0.0
        for token in word:
            if backbone.kind == "seq2seq":
                out = backbone.base(inputs_embeds=embeds, decoder_input_ids=torch.tensor([prefix])).logits
                prefix.append(token)
            else:
                out = backbone.base(inputs_embeds=embeds).logits
                embeds = torch.cat([embeds, backbone.embed(torch.tensor([[token]]))], 1)
            total += out[0, -1].log_softmax(-1)[token].item()
        found.append(total)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_score_of_a_word_is_its_probability(family: str) -> None:
    model = _model(family)
    lengths = [len(w) for w in model.active_mapping().options.continuations()]
    assert max(lengths) > 1 and min(lengths) == 1
    scores = logits_of(model, ROWS)
    for i, row in enumerate(ROWS):
        p = _by_hand(model, row["text"])
        assert scores[i].tolist() == pytest.approx([max(p[:2]), max(p[2:])], abs=1e-4)


def test_the_mean_of_a_words_tokens_turns_the_order() -> None:
    """M§A.14: p .3 then .5 against one token of .2: the sum prefers the one, the mean the other."""
    mapping = _model("llama", length="sum").active_mapping()
    values = torch.zeros(5, 3)
    values[0, :2] = torch.tensor([math.log(0.3), math.log(0.5)])  # " not good"
    values[1, 0] = -9.0
    values[3, 0] = math.log(0.2)  # " good"
    values[[2, 4], 0] = -9.0
    sums = mapping._reduced(mapping._words(values))[0]
    assert sums.tolist() == pytest.approx([-1.8971, -1.6094], abs=1e-4)
    other = _model("llama", length="mean").active_mapping()
    means = other._reduced(other._words(values))[0]
    assert means.tolist() == pytest.approx([-0.9486, -1.6094], abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_batch_mates_change_nothing(family: str) -> None:
    model = _model(family)
    together = logits_of(model, ROWS)
    torch.testing.assert_close(torch.cat([logits_of(model, [r]) for r in ROWS]), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.score(ROWS, batch_size=2), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_rows_beside_those_of_programs_with_one_token(family: str) -> None:
    model = _model(family)
    plain = {"type": "verbalizer", "words": {"x": [" like"], "y": [" love"], "z": [" hate"]}}
    model.add_adapter(
        "plain", ReprogramConfig(program={"type": "none", "template": "{text} so{answer}"}, mapping=plain)
    )
    names = ["default", "plain", "plain", "default", "default", "plain"]
    rows = [{**row, "adapter": name} for row, name in zip(ROWS, names, strict=True)]
    mixed = logits_of(model, rows)
    assert mixed.shape == (6, 3)
    for i, (row, name) in enumerate(zip(ROWS, names, strict=True)):
        model.set_adapter(name)
        alone = logits_of(model, [row])[0]
        torch.testing.assert_close(mixed[i, : len(alone)], alone, atol=1e-5, rtol=0)
    assert [p["label"] in ("bad", "good") for p in model.predict(rows)] == [n == "default" for n in names]


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_it_trains_and_the_gradient_is_that_of_the_whole_softmax(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "label": {"negative": "bad", "positive": "good"}[row["label"]]} for row in ROWS]
    gradients = []
    for size in (7, 10**6):  # many slices of the vocabulary, or two
        monkeypatch.setattr(heads, "SLICE", size)
        model = _model(family, reduce="logsumexp")
        loss_of(model, rows).backward()
        gradients.append(model.active_programs()[0].slots.grad)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_no_tensor_of_the_vocabularys_size_is_made() -> None:
    model = _model("llama")
    size, seen = model.backbone.head.size, []

    class Look(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, list | tuple) else [out]
            seen.extend(tuple(t.shape) for t in tensors if isinstance(t, torch.Tensor) and size in t.shape[1:])
            return out

    columns = model.collator()([{**row, "label": None} for row in ROWS])
    with Look(), torch.no_grad():
        model(**columns)
    assert not seen


def test_calibration_is_of_the_words_probabilities() -> None:
    model = _model("llama", calibration="contextual")
    offset = model.active_mapping().offset.clone()
    model.active_mapping().options.calibration = None
    raw = logits_of(model, [{"text": "N/A"}])[0]
    model.active_mapping().options.calibration = "contextual"
    torch.testing.assert_close(offset, raw.log_softmax(0).float(), atol=1e-5, rtol=0)


def test_generation_scores_no_words() -> None:
    assert _model("llama").generate(ROWS[:2], max_new_tokens=2, do_sample=False).shape == (2, 2)


class TestRefused:
    def test_a_masked_model_answers_at_one_position(self) -> None:
        with pytest.raises(
            ConfigError, match=r"words\['bad'\].*' not good' is 2 tokens.*BertForMaskedLM answers at one"
        ):
            _model("bert")

    def test_trained_rows_are_of_single_tokens(self) -> None:
        with pytest.raises(ConfigError, match="VerbalizerConfig.rows.*several tokens"):
            _model("llama", rows="trained")

    def test_the_same_word_in_two_classes(self) -> None:
        base, tokenizer = tiny("llama")
        config = _config()
        config.mapping.words["bad"] = [" very good"]
        with pytest.raises(ConfigError, match="' very good' is token .* which class 'bad' has too"):
            get_reprogram_model(base, config, tokenizer)

    def test_words_leave_room_for_the_text(self) -> None:
        model = _model("llama")
        row = model.collator().lay_out([{"text": " ".join(["good"] * 99)}])[0]
        assert len(row.ids) + max(len(w) for w in row.words) - 1 == 64
