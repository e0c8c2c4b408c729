"""`generate`: new tokens only, as a loop by hand writes them, for each row as if it stood alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_reprogram.backbone.writing import NEW_TOKENS, to_the_right
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, build, program_config, tiny


CAUSAL, SEQ2SEQ = ("llama", "gpt2", "gemma2"), ("t5", "bart")
MORE = ("opt", "gemma", "gemma3", "granite", "cohere", "cohere2", "phi", "phi3", "olmo2", "gptneox")
MORE += ("gptj", "bloom", "falcon", "pegasus", "mbart", "m2m100", "mvp", "led", "switch")
TEXTS = [row["text"] for row in ROWS[:4]]
GREEDY = {"do_sample": False, "max_new_tokens": 5}


def writer(family: str, template: str = "{prompt:3} {text}") -> ReprogramModel:
    """A tiny base with slots and no mapping."""
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, ReprogramConfig(program={"type": "prompt", "template": template}), tokenizer)


def changed(model: ReprogramModel, text: str) -> Any:
    """One row as its program leaves it."""
    columns = model.collator()([{"text": text}])
    return model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)


@torch.no_grad()
def by_hand(model: ReprogramModel, text: str, steps: int, penalty: float = 1.0) -> list[int]:
    """The likeliest token after the other, each by a whole pass without any cache."""
    batch, base, written = changed(model, text), model.backbone.base, []
    embeds, seq2seq = batch.embeds, base.config.is_encoder_decoder
    ends = base.generation_config.eos_token_id
    if seq2seq and base.generation_config.forced_bos_token_id is not None:  # the language, before what is free
        written.append(base.generation_config.forced_bos_token_id)
    while len(written) < steps and (not written or written[-1] != ends):
        if seq2seq:
            before = torch.tensor([[base.config.decoder_start_token_id, *written]])
            logits = base(inputs_embeds=embeds, decoder_input_ids=before, use_cache=False).logits[0, -1]
        else:
            new = model.backbone.embed(torch.tensor([written], dtype=torch.long))
            logits = base(inputs_embeds=torch.cat([embeds, new], 1), use_cache=False).logits[0, -1]
        for token in set(written):
            logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
        written.append(int(logits.argmax()))
    return written


def cut(model: ReprogramModel, ids: Tensor) -> list[list[int]]:
    """Written rows without what fills them up behind their end."""
    end = model.backbone.base.generation_config.eos_token_id
    rows = [row.tolist() for row in ids]
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


class TestGreedy:
    @pytest.mark.parametrize("family", CAUSAL + SEQ2SEQ)
    def test_every_row_of_a_batch_is_written_as_a_loop_by_hand_writes_it(self, family: str) -> None:
        """Rows of different lengths: padded on the left (causal), positions counted from each row's own start."""
        model = writer(family)
        found = cut(model, model.generate(TEXTS, **GREEDY))
        assert found == [by_hand(model, text, 5) for text in TEXTS]
        assert len({tuple(row) for row in found}) > 1  # a base that always says the same would prove nothing

    @pytest.mark.slow
    @pytest.mark.parametrize("family", MORE)
    def test_other_families_too(self, family: str) -> None:
        model = writer(family)
        found = cut(model, model.generate(TEXTS[:3], **GREEDY))
        assert found == [by_hand(model, text, 5) for text in TEXTS[:3]]

    @pytest.mark.parametrize("family", ["gpt2", "bart"])
    def test_a_batch_of_the_collator_is_as_good_as_its_rows(self, family: str) -> None:
        """It comes padded on the right, where new tokens would stand behind the padding."""
        model = writer(family)
        batch = model.collator()(TEXTS)
        assert torch.equal(model.generate(batch, **GREEDY), model.generate(TEXTS, **GREEDY))

    @pytest.mark.parametrize("family", ["llama", "t5"])
    def test_a_disabled_program_writes_what_the_base_writes(self, family: str) -> None:
        model = writer(family)
        with model.disable_adapter():
            found = model.generate(TEXTS[:1], **GREEDY)
        ids = model.processing_class(TEXTS[:1], return_tensors="pt")
        ids = {name: ids[name] for name in ("input_ids", "attention_mask")}
        own = model.backbone.base.generate(**ids, **GREEDY)
        assert found.tolist() == own[:, 1 if family == "t5" else ids["input_ids"].shape[1] :].tolist()

    def test_checkpointing_changes_no_token(self) -> None:
        """Its layers drop the cache: without care, every token after the first saw itself alone."""
        model = writer("llama")
        expected = model.generate(TEXTS, **GREEDY)
        model.activation_checkpointing_enable()
        model.train()
        assert torch.equal(model.generate(TEXTS, **GREEDY), expected)
        assert model.training and model.reprogrammed.is_gradient_checkpointing

    def test_an_output_object_holds_new_tokens_too(self) -> None:
        for family in ("llama", "t5"):
            model = writer(family)
            found = model.generate(TEXTS, **GREEDY, return_dict_in_generate=True, output_scores=True)
            assert torch.equal(found.sequences, model.generate(TEXTS, **GREEDY))
            assert len(found.scores) == found.sequences.shape[1]


class TestBeamsAndSamples:
    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    def test_beams_of_a_batch_are_those_of_its_rows(self, family: str) -> None:
        model, options = writer(family), {"num_beams": 3, "do_sample": False, "max_new_tokens": 4}
        found = cut(model, model.generate(TEXTS, **options))
        assert found == [row for text in TEXTS for row in cut(model, model.generate([text], **options))]

    def test_several_texts_of_a_row_stand_together(self) -> None:
        model = writer("llama")
        options = {"num_beams": 3, "num_return_sequences": 2, "do_sample": False, "max_new_tokens": 4}
        found = model.generate(TEXTS[:2], **options)
        assert found.shape[0] == 4
        assert cut(model, found[2:]) == cut(model, model.generate(TEXTS[1:2], **options))

    def test_samples_are_those_of_the_base_under_the_same_seed(self) -> None:
        model, options = writer("llama"), {"do_sample": True, "temperature": 3.0, "max_new_tokens": 6}
        torch.manual_seed(3)
        found = model.generate(TEXTS[:1], **options)
        torch.manual_seed(3)
        own = model.backbone.base.generate(inputs_embeds=changed(model, TEXTS[0]).embeds, **options)
        assert torch.equal(found, own)
        assert not torch.equal(model.generate(TEXTS[:1], **options), found)  # the next numbers of the same source
        alike = model.generate(TEXTS, do_sample=True, top_k=1, max_new_tokens=5)
        assert torch.equal(alike, model.generate(TEXTS, **GREEDY))


class TestPrograms:
    @pytest.mark.parametrize("family", ["gpt2", "t5"])
    @pytest.mark.parametrize("beams", [1, 2])
    def test_rows_of_different_programs_are_written_as_by_each_alone(self, family: str, beams: int) -> None:
        """Templates of different lengths, and a name for each row: in a column, or as an argument as PEFT has it."""
        model = writer(family)
        longer = ReprogramConfig(program={"type": "prompt", "template": "{prompt:6} {text} it was"})
        model.add_adapter("other", longer, seed=5)
        names = ["default", "other", "other", "default"]
        options = {**GREEDY, "num_beams": beams}
        alone = [model.generate([{"text": t, "adapter": n}], **options) for t, n in zip(TEXTS, names, strict=True)]
        expected = [row for one in alone for row in cut(model, one)]
        assert cut(model, model.generate(TEXTS, adapter_names=names, **options)) == expected
        columns = model.collator()([{"text": t, "adapter": n} for t, n in zip(TEXTS, names, strict=True)])
        assert cut(model, model.generate(columns, **options)) == expected
        model.set_adapter("other")
        assert cut(model, model.generate(TEXTS[1:3], **options)) == expected[1:3]

    def test_names_that_do_not_fit_are_refused(self) -> None:
        model = writer("llama")
        with pytest.raises(UsageError, match=r"generate\(adapter_names\): 1 names for 2 rows"):
            model.generate(TEXTS[:2], adapter_names=["default"])
        with pytest.raises(DataError, match=r"rows\[0\].*'defualt'.*did you mean 'default'"):
            model.generate(TEXTS[:1], adapter_names=["defualt"])


class TestWhatLooksAtTokens:
    def test_a_penalty_on_repetition_counts_new_tokens_whatever_stands_beside_the_row(self) -> None:
        """transformers leaves out as many new tokens as the row has padding: our own processor stands in."""
        model, options = writer("llama"), {**GREEDY, "repetition_penalty": 3.0}
        found = cut(model, model.generate(TEXTS, **options))
        assert found == [by_hand(model, text, 5, penalty=3.0) for text in TEXTS]
        assert found != cut(model, model.generate(TEXTS, **GREEDY))

    @pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
    def test_transformers_own_penalty_passes_over_padded_rows_first_tokens(self) -> None:
        """The trap itself. Where this fails it is mended there, and `writing.checked` can forget it."""
        model = writer("llama")
        embeds = changed(model, TEXTS[0]).embeds
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        padded = torch.cat([torch.zeros_like(embeds[:, :4]), embeds], 1), torch.nn.functional.pad(mask, (4, 0))
        other = torch.cat([embeds[:, :4], embeds], 1), torch.ones_like(padded[1])
        options = {**GREEDY, "repetition_penalty": 3.0}
        together = [torch.cat(pair) for pair in zip(padded, other, strict=True)]
        own = model.backbone.base.generate(inputs_embeds=together[0], attention_mask=together[1], **options)
        assert cut(model, own)[0] != by_hand(model, TEXTS[0], 5, penalty=3.0)

    def test_a_penalty_of_the_bases_own_config_too(self) -> None:
        model = writer("llama")
        model.backbone.base.generation_config.repetition_penalty = 3.0
        assert cut(model, model.generate(TEXTS, **GREEDY)) == [by_hand(model, t, 5, penalty=3.0) for t in TEXTS]

    @pytest.mark.parametrize("family", ["falcon_h1", "bert"])
    def test_a_base_that_cannot_go_on_from_vectors(self, family: str) -> None:
        """One is causal, and transformers gives it no way."""
        model = writer(family)
        name = type(model.backbone.base).__name__
        with pytest.raises(UsageError, match=f"{name} writes no text after vectors.*own generate takes inputs_embeds"):
            model.generate(TEXTS[:1])

    @pytest.mark.filterwarnings("ignore:Passing `no_repeat_ngram_size`")
    def test_no_token_comes_twice_in_what_is_new(self) -> None:
        model = writer("llama")
        plain = cut(model, model.generate(TEXTS, **GREEDY))
        assert any(len(set(row)) < len(row) for row in plain)
        found = cut(model, model.generate(TEXTS, **GREEDY, no_repeat_ngram_size=1))
        assert all(len(set(row)) == len(row) for row in found)

    def test_writing_stops_at_a_string(self) -> None:
        """Its tokenizer is ours to give."""
        model = writer("llama")
        whole = model.generate(TEXTS[:1], **GREEDY)[0].tolist()
        word = model.processing_class.decode(whole[1:2])
        found = model.generate(TEXTS[:1], **GREEDY, stop_strings=[word])[0].tolist()
        assert found == whole[: whole.index(whole[1]) + 1]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_length": 30}, r"\(max_length\): 30 counts the slots and the padding.*max_new_tokens"),
    ({"min_length": 3}, r"\(min_length\): 3 counts the slots.*min_new_tokens"),
    ({"max_new_token": 3}, r"\(max_new_token\): no option.*did you mean 'max_new_tokens'"),
    ({"max_new_tokens": 0}, r"\(max_new_tokens\): 0\. Expected a whole number from 1"),
    ({"num_beams": 2.5}, r"\(num_beams\): 2\.5\. Expected a whole number from 1"),
    ({"num_beams": 4, "num_beam_groups": 3}, r"\(num_beam_groups\): asks for code that is no part of transformers"),
    ({"num_beams": 6, "num_beam_groups": 3}, r"\(num_beam_groups\): asks for code.*leave num_beam_groups out"),
    ({"num_beams": 2, "num_return_sequences": 3}, r"\(num_return_sequences\): 3 texts of 2 beams.*at most 2"),
    ({"num_return_sequences": 2}, r"\(num_return_sequences\): 2 texts of 1 beam\..*do_sample=True"),
    ({"guidance_scale": 2.0}, r"\(guidance_scale\): reads the token ids of the prompt"),
    ({"encoder_repetition_penalty": 2.0}, r"\(encoder_repetition_penalty\): reads the token ids"),
    ({"encoder_no_repeat_ngram_size": 2}, r"\(encoder_no_repeat_ngram_size\): reads the token ids"),
    ({"prompt_lookup_num_tokens": 2}, r"\(prompt_lookup_num_tokens\): reads the token ids"),
    ({"attention_mask": torch.ones(1, 4)}, r"\(attention_mask\): given, and rows are laid out here"),
    ({"temperature": -1.0, "do_sample": True}, r"generate: .*temperature"),
    ({"max_new_tokens": 60}, r"\(max_new_tokens\): 60 after 9 positions, and the base has 64\. Expected at most 55"),
]


class TestRefused:
    @pytest.mark.parametrize(("options", "says"), REFUSED, ids=[next(reversed(options)) for options, _ in REFUSED])
    def test_what_cannot_be_met_is_told_with_the_reason(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            writer("llama").generate(TEXTS[:1], **options)

    @pytest.mark.filterwarnings("ignore:Passing `no_repeat_ngram_size`")
    def test_the_same_options_where_they_do_nothing(self) -> None:
        model = writer("llama")
        nothing = {"guidance_scale": 1.0, "max_length": None, "encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1}
        assert torch.equal(model.generate(TEXTS, **GREEDY, **nothing), model.generate(TEXTS, **GREEDY))

    def test_a_batch_whose_rows_stand_there_once_for_every_word(self) -> None:
        words = {"negative": [" bad poor"], "positive": [" good great"]}
        model = build(ReprogramConfig(program="prompt", mapping={"type": "verbalizer", "words": words}), "llama")
        with pytest.raises(UsageError, match="once for every label word.*the rows themselves"):
            model.generate(model.collator()(ROWS))

    def test_a_decoder_without_room(self) -> None:
        with pytest.raises(UsageError, match="64 after 1 positions, and the base has 64. Expected at most 63"):
            writer("bart").generate(TEXTS[:1], max_new_tokens=64)

    def test_a_decoder_with_fewer_positions_than_its_encoder(self) -> None:
        """LED reads 16,384 tokens and writes 1,024; here 64 and 32."""
        model = writer("led")
        assert model.backbone.facts.max_length == 64
        with pytest.raises(UsageError, match="40 after 1 positions, and the base has 32. Expected at most 31"):
            model.generate(TEXTS[:1], max_new_tokens=40)


class TestHowMany:
    def test_twenty_where_nobody_says(self, recwarn: pytest.WarningsRecorder) -> None:
        model = writer("llama")
        found = model.generate(TEXTS, do_sample=False, min_new_tokens=NEW_TOKENS)
        assert found.shape == (4, NEW_TOKENS) and not recwarn.list

    def test_a_long_row_is_cut_to_leave_room(self, caplog: pytest.LogCaptureFixture) -> None:
        model, long = writer("llama"), " ".join(TEXTS * 20)
        found = model.generate([TEXTS[0], long], **GREEDY)
        assert found.shape == (2, GREEDY["max_new_tokens"]) and "long rows are cut" in caplog.text
        assert torch.equal(found[1:], model.generate([long], **GREEDY))
        short = model.collator().lay_out([long])[0]
        collator = model.collator()
        collator.for_writing(5)
        assert len(collator.lay_out([long])[0]) == len(short) - 5
        with pytest.raises(UsageError, match="'five'. Expected a whole number"):
            model.generate([long], max_new_tokens="five")
        with pytest.raises(UsageError, match="60 after"):  # a row that need not be cut is whole
            model.generate(TEXTS[:1], max_new_tokens=60)

    def test_as_many_as_there_is_room_for(self) -> None:
        model = writer("llama", "{prompt:50} {text}")  # 50 slots, <s> and 5 words leave 8 of 64 positions
        assert model.generate(TEXTS[:1], do_sample=False, eos_token_id=-1).shape == (1, 8)

    def test_a_length_in_the_bases_own_config_counts_no_slots(self) -> None:
        """transformers would take the prompt's positions from it, and have -9 tokens left."""
        model = writer("llama")
        model.backbone.base.generation_config.max_length = 10
        assert model.generate(TEXTS[:1], do_sample=False, min_new_tokens=NEW_TOKENS).shape == (1, NEW_TOKENS)
        model.backbone.base.generation_config.max_new_tokens = 3
        assert model.generate(TEXTS[:1], do_sample=False).shape[1] <= 3

    def test_a_mapping_and_its_answer_slot_are_left_out_of_it(self) -> None:
        model = build(program_config("prompt"), "llama")
        assert model.generate(TEXTS, **GREEDY).shape == (4, 5)


def test_padding_moves_before_its_row() -> None:
    embeds = torch.tensor([[[1.0], [2.0], [0.0], [0.0]], [[3.0], [4.0], [5.0], [0.0]]])
    moved, mask = to_the_right(embeds, torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]]))
    assert moved.squeeze(-1).tolist() == [[0, 0, 1, 2], [0, 3, 4, 5]]
    assert mask.tolist() == [[0, 0, 1, 1], [0, 1, 1, 1]]
