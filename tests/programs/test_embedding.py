"""The embedding program: by hand, on which positions, alone and after a prompt, what it says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, TemplateError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs.embedding import Embedding, EmbeddingConfig
from hf_reprogram.testing import LANGUAGE_MODELS, ROWS, logits_of, tiny
from hf_reprogram.testing.helpers import pad_more, train_step, unlabelled


WORDS = {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}}
PROMPT = {"type": "prompt", "template": "{prompt:3} {text} {prompt:2} it was{answer}"}
FULL = {"type": "embedding", "rank": 3, "position_rank": 2, "positions": 6}


class _Base:
    """All that the program asks of a backbone."""

    width = 2


def _program(**options: Any) -> Embedding:
    scale = options.pop("scale", 1.0)
    return Embedding(EmbeddingConfig(**options), _Base, scale)


def _model(*programs: Any, family: str = "llama", seed: int = 0) -> ReprogramModel:
    base, tokenizer = tiny(family)
    return get_reprogram_model(base, ReprogramConfig(program=list(programs), mapping=WORDS), tokenizer, seed=seed)


def _moved(model: ReprogramModel) -> ReprogramModel:
    """Away from zero effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.active_programs()[-1].parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


class TestByHand:
    """x_j = e_j + (e_j A) B + s (U V)_j."""

    embeds = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    ones = torch.ones(1, 3, dtype=torch.long)

    def _through(self, program: Embedding, mask: torch.Tensor, slots: torch.Tensor | None = None) -> list:
        return program(Batch(attention_mask=mask, embeds=self.embeds, slot_index=slots), _Base).embeds[0].tolist()

    def test_the_map(self) -> None:
        """A sums both numbers, B gives ten times that to the second: (1, 2) -> (1, 2 + 30)."""
        program = _program(rank=1)
        with torch.no_grad():
            program.left.copy_(torch.tensor([[1.0], [1.0]]))
            program.right.copy_(torch.tensor([[0.0, 10.0]]))
        assert self._through(program, self.ones) == [[1, 32], [3, 74], [5, 116]]

    def _places(self, positions: int = 3) -> Embedding:
        """s = 4 / sqrt(1); the j-th token gets 4 (j + 1) RMS on its first number."""
        program = _program(rank=0, position_rank=1, positions=positions, alpha=4, scale=0.5)
        with torch.no_grad():
            program.place_left.copy_(torch.arange(1.0, positions + 1).unsqueeze(1))
            program.place_right.copy_(torch.tensor([[1.0, 0.0]]))
        return program

    def test_the_offset_is_in_units_of_the_embeddings(self) -> None:
        assert self._through(self._places(), self.ones) == [[1 + 2, 2], [3 + 4, 4], [5 + 6, 6]]

    def test_tokens_behind_the_last_position_have_none(self) -> None:
        assert self._through(self._places(positions=2), self.ones) == [[3, 2], [7, 4], [5, 6]]

    def test_padding_on_the_left_is_not_counted_and_not_changed(self) -> None:
        mask = torch.tensor([[0, 1, 1]])
        assert self._through(self._places(), mask) == [[1, 2], [3 + 2, 4], [5 + 4, 6]]

    def test_slots_are_not_counted_and_not_changed(self) -> None:
        slots = torch.tensor([[-1, 0, -1]])
        assert self._through(self._places(), self.ones, slots) == [[1 + 2, 2], [3, 4], [5 + 4, 6]]

    def test_it_is_the_same_on_embeddings_a_hundred_times_as_large(self) -> None:
        """One learning rate suits all bases: the same numbers change every base's embeddings by the same share."""
        parts = []
        for size in (1.0, 100.0):
            program = _program(rank=1, position_rank=1, positions=3, scale=size)
            program.initialise(_Base, torch.Generator().manual_seed(0))
            with torch.no_grad():
                program.right.fill_(0.1)
                program.place_right.fill_(0.1)
            batch = Batch(attention_mask=self.ones, embeds=self.embeds * size)
            parts.append(program(batch, _Base).embeds / size)
        torch.testing.assert_close(parts[0], parts[1])


class TestWhere:
    def test_every_token_that_is_no_slot(self) -> None:
        """Specials, the template's words and the text; the prompt's vectors and padding stay."""
        model = _moved(_model(PROMPT, FULL))
        columns = model.collator()(unlabelled(ROWS[:2]))
        batch = model.reprogrammed.batch(**columns)
        prompt, embedding = model.active_programs()
        before = prompt(batch, model.backbone)
        after = embedding(before, model.backbone)
        changed = (after.embeds != before.embeds).any(-1)
        assert torch.equal(changed, (columns["attention_mask"] > 0) & (columns["slot_index"] < 0))

    @pytest.mark.parametrize("family", LANGUAGE_MODELS)
    def test_padding_s_side_changes_nothing(self, family: str) -> None:
        """The contract's check sees a fresh program, which has no effect; this one has."""
        model = _moved(_model(PROMPT, FULL, family=family))
        columns = model.collator()(unlabelled(ROWS))
        expected = logits_of(model, ROWS)
        assert (expected - logits_of(_model(PROMPT, family=family), ROWS)).abs().max() > 1e-3
        for side in model.backbone.family.sides:
            with torch.no_grad():
                moved = model(**pad_more(columns, 3, side, model.backbone.kind)).logits
            torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


class TestBesideOthers:
    def test_alone_it_has_a_template_of_its_own(self) -> None:
        model = _model({**FULL, "template": "{text} it was{answer}"})
        assert model.columns() == ["text"] and "program.0.left" in model.base_model.state("default")
        no_program = _model({"type": "none", "template": "{text} it was{answer}"})
        torch.testing.assert_close(logits_of(model, ROWS), logits_of(no_program, ROWS), atol=1e-6, rtol=0)

    def test_after_a_prompt_it_has_the_prompt_s(self) -> None:
        model = _model(PROMPT, FULL)
        assert model.learning_rates() == {"program.0": 0.07, "program.1": 5e-3}
        torch.testing.assert_close(logits_of(model, ROWS), logits_of(_model(PROMPT), ROWS), atol=1e-6, rtol=0)

    def test_the_second_step_moves_all_of_it(self) -> None:
        model = _model(PROMPT, FULL)
        before = {k: v.clone() for k, v in model.base_model.state("default").items()}
        train_step(model)
        train_step(model)
        after = model.base_model.state("default")
        assert [k for k in after if torch.equal(after[k], before[k])] == []

    def test_rows_of_chains_of_different_length_share_a_pass(self) -> None:
        model = _moved(_model(PROMPT, FULL))
        alone = {**FULL, "template": "{text} so{answer}"}
        model.add_adapter("alone", ReprogramConfig(program=alone, mapping=WORDS), seed=1)
        model.add_adapter("prompt", ReprogramConfig(program=PROMPT, mapping=WORDS), seed=2)
        names = ["default", "alone", "prompt"] * 2
        mixed = logits_of(model, [{**row, "adapter": name} for row, name in zip(ROWS, names, strict=True)])
        for i, (row, name) in enumerate(zip(ROWS, names, strict=True)):
            model.set_adapter(name)
            torch.testing.assert_close(mixed[i], logits_of(model, [row])[0], atol=1e-5, rtol=0)

    def test_folded_beside_a_prompt_it_stays_what_it_is(self) -> None:
        model = _moved(_model({**PROMPT, "parametrisation": "residual", "bottleneck": 4}, FULL))
        before = logits_of(model, ROWS)
        model.fold()
        torch.testing.assert_close(logits_of(model, ROWS), before, atol=1e-6, rtol=0)
        assert [p.options.type for p in model.active_programs()] == ["prompt", "embedding"]

    def test_generation_reads_the_changed_text(self) -> None:
        model = _model(PROMPT, FULL)
        plain = model.generate(["this film was good"], max_new_tokens=4)
        assert not torch.equal(_moved(model).generate(["this film was good"], max_new_tokens=4), plain)


class TestExplain:
    def test_of_a_map_of_rank_one(self) -> None:
        """Every vector along A, of length 1, is moved by |B|: its only singular value is |A| |B|."""
        model = _model({"type": "embedding", "rank": 1, "template": "{text} so{answer}"})
        program = model.active_programs()[0]
        with torch.no_grad():
            program.left.zero_()
            program.right.zero_()
            program.left[0, 0], program.right[0, 1] = 2.0, 0.5
        first, *tokens = model.explain()["facts"]
        table = model.backbone.vectors(range(model.backbone.vocab_size))
        share = table[:, 0].abs() / table.norm(dim=1)
        assert first["singular"] == [1.0]
        assert (first["map: mean change"], first["largest"]) == pytest.approx(
            (share.mean().item(), share.max().item())
        )
        assert len(tokens) == 5 and tokens[0]["change"] == pytest.approx(share.max().item())
        assert tokens[0]["token"] == model.processing_class.decode([int(share.argmax())])

    def test_of_an_offset(self) -> None:
        model = _model(
            {"type": "embedding", "rank": 0, "position_rank": 1, "positions": 4, "template": "{text}{answer}"}
        )
        program = model.active_programs()[0]
        with torch.no_grad():
            program.place_left.copy_(torch.tensor([[0.0], [1.0], [2.0], [1.0]]))
            program.place_right[0, 0] = 1.0
        (row,) = model.explain()["facts"]
        size = model.backbone.vectors(range(model.backbone.vocab_size)).norm(dim=1).mean().item()
        assert row == pytest.approx(
            {"offset: mean": 8 * program.scale / size, "largest": 16 * program.scale / size, "at token": 2}
        )

    def test_beside_a_prompt_the_page_has_both(self) -> None:
        page = str(_moved(_model(PROMPT, FULL)).explain())
        assert "program prompt + embedding" in page
        assert "slot   4" in page and "now nearest" in page and "offset: mean" in page


# What is given, and what the error says.
BAD: dict[str, tuple[Any, str]] = {
    "nothing to learn": ({"type": "embedding", "rank": 0}, "EmbeddingConfig.rank: 0, and position_rank is 0"),
    "slots of its own": ({**FULL, "template": "{prompt:2} {text}"}, "slots in .*no slots.*a prompt's"),
    "two templates": ([PROMPT, {**FULL, "template": "{text}"}], "2 programs lay out the row"),
    "before the prompt": ([FULL, PROMPT], "'prompt' accepts tokens, 'embedding' before it gives embeds"),
    "twice": ([{**FULL, "template": "{text}"}, FULL], "two programs of one stage"),
    "a rank that saves nothing": ([PROMPT, {**FULL, "rank": 32}], "rank: 32 for embeddings of width 32.*less than 32"),
    "more ranks than positions": ([PROMPT, {**FULL, "position_rank": 6}], "6 for 6 positions and.*less than 6"),
    "no factor": ({**FULL, "alpha": 0.0}, "alpha: 0.0 is out of range"),
    "no answer slot": (FULL, "no {answer} in '{text}'"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[Any, str]) -> None:
    program, says = case
    base, tokenizer = tiny("llama")
    with pytest.raises((ConfigError, TemplateError), match=says):
        get_reprogram_model(base, ReprogramConfig(program=program, mapping=WORDS), tokenizer)


def test_a_base_that_hears_is_refused() -> None:
    base, extractor = tiny("hubert-encoder")
    config = ReprogramConfig(program="embedding", mapping={"type": "linear", "pool": "mean"}, labels=["a", "b"])
    with pytest.raises(ConfigError, match="'embedding' changes embeds, and a HubertModel takes wave"):
        get_reprogram_model(base, config, extractor)
