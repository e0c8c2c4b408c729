"""`projection`: what stands in a symbol's place, where it starts, its low-rank form, what it is refused."""

from __future__ import annotations

from string import ascii_lowercase
from types import SimpleNamespace

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError
from hf_reprogram.symbols import stand_ins
from hf_reprogram.testing import tiny


def _model(family: str = "bert", symbols: str = ascii_lowercase, **options: object) -> hr.ReprogramModel:
    base, tokenizer = tiny(family)
    config = hr.ReprogramConfig(
        program=hr.ProjectionConfig(symbols=symbols, **options), mapping=hr.TokensConfig(symbols=ascii_lowercase)
    )
    return hr.get_reprogram_model(base, config, tokenizer)


class TestPlaces:
    def test_a_symbol_is_the_weighted_sum_of_all_embeddings(self) -> None:
        model = _model()
        program, table = model.active_programs()[0], model.backbone.base.get_input_embeddings().weight
        with torch.no_grad():
            program.theta.normal_(generator=torch.Generator().manual_seed(1))
        columns = model.collator()([{"text": "ba<mask>"}])
        batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
        unit = 32**0.5 / len(table)
        expected = [sum(unit * w * e for w, e in zip(program.theta[i], table, strict=True)) for i in (1, 0)]
        assert torch.allclose(batch.embeds[0, 1:3], torch.stack(expected), atol=1e-5)
        ids = tiny("bert")[1].convert_tokens_to_ids(["<s>", "<mask>", "</s>"])
        assert torch.equal(batch.embeds[0, [0, 3, 4]], table[ids])  # the base's own tokens are its own

    def test_scaled_embeddings_are_summed_as_the_body_takes_them(self) -> None:
        """T§0.2 1: Gemma multiplies in its embedding module."""
        model = _model("gemma2")
        token = stand_ins(["c"], tiny("gemma2")[1])[0]
        made = model.active_programs()[0].vectors(model.backbone)
        ids = stand_ins(list(ascii_lowercase), tiny("gemma2")[1])
        assert torch.allclose(made, model.backbone.vectors(ids), atol=1e-5) and token < model.backbone.vocab_size

    def test_the_mixed_embedding_costs_one_product_a_step(self) -> None:
        """T§4: theta E once, then a lookup; E is not multiplied for every position."""
        model, calls = _model(), []
        table = model.backbone.table
        model.backbone.table = lambda: calls.append(1) or table()
        model(**model.collator()([{"text": "abc<mask>", "label": "d"}] * 3)).loss.backward()
        assert calls == [1]


class TestStart:
    def test_symbols_start_at_the_token_of_their_name_else_at_one_that_is_drawn(self) -> None:
        model, tokenizer = _model(symbols="ab"), tiny("bert")[1]
        made = model.active_programs()[0].vectors(model.backbone)
        assert torch.allclose(made, model.backbone.vectors(stand_ins(["a", "b"], tokenizer)), atol=1e-6)
        assert tokenizer.convert_ids_to_tokens(stand_ins(["a"], tokenizer)) == ["a"]

    def test_normal_is_the_paper_s(self) -> None:
        program = _model(init="normal").active_programs()[0]
        assert (program.theta * program.unit).std().item() == pytest.approx(0.02, rel=0.05)

    def test_low_rank_starts_at_the_same_size(self) -> None:
        program = _model(form="low_rank", rank=8).active_programs()[0]
        assert program.left.shape == (26, 8)
        product = program.left @ program.right * program.unit
        assert product.std().item() == pytest.approx(0.02, rel=0.15)


@pytest.mark.parametrize("options", [{}, {"init": "normal"}, {"form": "low_rank", "rank": 4}], ids=str)
def test_explain_names_the_nearest_tokens(options: dict) -> None:
    model = _model(**options)
    rows = model.active_programs()[0].explain(model.backbone)
    assert [row["symbol"] for row in rows] == list(ascii_lowercase) and all(
        len(row["ids"]["tokens"]) == 5 for row in rows
    )
    if not options:
        assert (
            rows[2]["ids"]["tokens"][0] == stand_ins(["a", "b", "c"], tiny("bert")[1])[2] or rows[2]["cosine"] > 0.999
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "low_rank", "init": "tokens"}, "'tokens' with form='low_rank'"),
        ({"form": "low_rank", "rank": 26}, "26 for 26 symbols of width 32.*less than 26"),
        ({"form": "sparse"}, "'sparse' is not a choice"),
    ],
)
def test_what_cannot_be_meant(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _model(**options)


def test_a_table_that_fills_the_memory_is_refused_before_it_is_made() -> None:
    symbols = [f"s{i}" for i in range(30_000)]
    options = hr.ProjectionConfig(symbols=symbols)
    backbone = _model().backbone
    backbone.embedding.weight = torch.nn.Parameter(torch.empty(30_522, 1, device="meta"), requires_grad=False)
    with pytest.raises(ConfigError, match=r"3\.7 GB.*'low_rank', or the program dictionary with form='free'"):
        options.resolve(None, backbone, None)


def test_a_product_that_fills_the_memory_is_refused_too() -> None:
    facts = SimpleNamespace(vocab_size=250_000, width=4096)
    options = hr.ProjectionConfig(symbols=[f"s{i}" for i in range(60_000)], form="low_rank", rank=4000)
    with pytest.raises(ConfigError, match=r"ProjectionConfig\.rank: rank 4,000 of .* 5\.0 GB.*a smaller one"):
        options.resolve(None, facts, None)
    options.rank = 1000
    options.resolve(None, facts, None)
