"""The program `dictionary`: what its forms are, how the sparse one finds its tokens, what is refused."""

from __future__ import annotations

from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any

import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.programs import dictionary as module
from hf_reprogram.programs._pursuit import Atoms
from hf_reprogram.programs.dictionary import DictionaryConfig
from hf_reprogram.testing import ROWS, logits_of, state_hash, tiny
from hf_reprogram.testing.helpers import loss_of, train_step


FORMS = ("sparse", "dense", "low_rank", "free")
LETTERS = {"symbols": ascii_lowercase, "template": "{text} it was{answer}", "atoms": 4, "rank": 3}
MAPPING = {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}}


def build(form: str = "sparse", family: str = "bert", seed: int = 0, program: Any = None, **options: Any) -> Any:
    base, tokenizer = tiny(family)
    program = program or DictionaryConfig(**{**LETTERS, "form": form, **options})
    config = hr.ReprogramConfig(program=program, mapping=MAPPING)
    return hr.get_reprogram_model(base, config, processing_class=tokenizer, seed=seed)


def steps(model: Any, count: int, rate: float = 0.05) -> list[float]:
    """Losses of so many steps of Adam on all rows."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    found = []
    for _ in range(count):
        loss = loss_of(model, ROWS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    model.eval()
    return found


def table_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.active_programs()[0].units(model.backbone)


@pytest.mark.parametrize("form", FORMS)
class TestForms:
    """What holds of each."""

    def test_symbols_start_as_tokens(self, form: str) -> None:
        model = build(form)
        source = model.backbone.vectors(range(model.backbone.vocab_size)) / model.peft_config["default"].embedding_rms
        gaps, tokens = (table_of(model).unsqueeze(1) - source).abs().amax(-1).min(1)
        assert gaps.max() < 1e-4
        special = set(model.processing_class.all_special_ids)
        # 'a' and 'i' are words of the tokenizer; the others are tokens of their own while there are enough.
        known = {x: model.processing_class.convert_tokens_to_ids(x) for x in "ai"}
        assert {x: int(tokens[ascii_lowercase.index(x)]) for x in known} == known
        assert len(set(tokens.tolist())) == 26 and not special & set(tokens.tolist())

    def test_it_learns_and_the_base_stays(self, form: str) -> None:
        model = build(form)
        before = state_hash(model.backbone.base)
        losses = steps(model, 8)
        assert losses[-1] < losses[0] - 0.1
        assert state_hash(model.backbone.base) == before  # tied embeddings among it

    def test_it_folds_to_the_same_free_table(self, form: str) -> None:
        model = build(form)
        steps(model, 2)
        expected = logits_of(model, ROWS)
        model.fold()
        options = model.peft_config["default"].program
        assert options.form == "free" and list(model.base_model.state("default")) == ["program.0.table"]
        assert torch.allclose(logits_of(model, ROWS), expected, atol=1e-6)

    def test_it_comes_back_from_a_file(self, form: str, tmp_path: Path) -> None:
        model = build(form)
        steps(model, 2)
        model.save_pretrained(tmp_path)
        base, tokenizer = tiny("bert")
        again = hr.AutoReprogramModel.from_pretrained(tmp_path, base, tokenizer)
        assert torch.equal(logits_of(again, ROWS), logits_of(model, ROWS))

    def test_it_says_what_its_symbols_are_made_of(self, form: str) -> None:
        model = build(form)
        row = model.active_programs()[0].explain(model.backbone)[0]  # 'a', a token of the base
        assert row["symbol"] == "a" and row["ids"]["tokens"][0] == model.processing_class.convert_tokens_to_ids("a")
        assert row["coefficients"][0] == pytest.approx(1.0, abs=1e-4)
        assert row["residual"] == pytest.approx(0.0, abs=1e-3) and not row["poor"]
        assert "symbol a, tokens ['a'" in str(model.explain())


def test_the_base_s_own_tokens_stay_and_symbols_have_their_vectors() -> None:
    model = build("free")
    columns = model.collator()([{"text": "ab z"}])
    columns.pop("labels", None)
    batch = model.reprogrammed.program(model.reprogrammed.batch(**columns), model.backbone)
    index = columns["symbol_index"][0]
    assert index[index >= 0].tolist() == [0, 1, 25]
    table = table_of(model) * model.peft_config["default"].embedding_rms
    assert torch.equal(batch.embeds[0][index >= 0], table[[0, 1, 25]])
    own = model.backbone.embed(columns["input_ids"])[0]
    assert torch.equal(batch.embeds[0][index < 0], own[index < 0])


def test_it_stands_behind_a_prompt() -> None:
    prompt = hr.PromptConfig(template="{p:2} {text} it was{answer}")
    letters = DictionaryConfig(symbols=ascii_lowercase, atoms=3)
    model = build(program=[prompt, letters])
    losses = steps(model, 6)
    assert losses[-1] < losses[0]
    assert set(model.learning_rates()) == {"program.0", "program.1"}


class TestSparse:
    """The form of few tokens."""

    def test_the_first_pass_gives_tokens_without_weight_to_what_the_gradient_asks_for(self) -> None:
        model = build()
        program = model.active_programs()[0]
        before, support = table_of(model), program.support.clone()
        model.train()
        loss_of(model, ROWS).backward()
        assert torch.equal(program.support[:, 0], support[:, 0])  # the token that holds the symbol
        assert torch.equal(table_of(model), before)  # the new ones weigh nothing yet
        seen = program.coefficients.grad.abs().sum(1) > 0
        assert seen.any() and not seen.all()  # no row has a 'z'
        changed = (program.support != support).any(1)
        assert torch.equal(changed, seen)

    def test_the_new_tokens_lie_along_the_gradient(self) -> None:
        model = build()
        program, heard = model.active_programs()[0], []
        told, support = program._told, program.support.clone()
        program._told = lambda gradient, atoms: (heard.append(gradient), told(gradient, atoms))[1]
        model.train()
        loss_of(model, ROWS).backward()
        atoms = Atoms(model.backbone)
        assert _along(atoms(program.support), heard[0]) > 1.5 * _along(atoms(support), heard[0])

    def test_passes_are_counted_in_training_only(self) -> None:
        model = build(refit_every=2)
        program = model.active_programs()[0]
        loss_of(model, ROWS).backward()  # asleep
        assert int(program.passes) == 0
        model.train()
        supports = []
        for _ in range(3):
            loss_of(model, ROWS).backward()
            with torch.no_grad():
                program.coefficients[:, 1:] = program.dropped[:, 1:]  # nothing but the first has weight
            supports.append(program.support.clone())
            model.zero_grad()
        assert int(program.passes) == 3
        assert torch.equal(supports[0], supports[1])  # the second was not due

    def test_tokens_with_weight_stay(self) -> None:
        model = build(refit_every=1)
        program = model.active_programs()[0]
        with torch.no_grad():
            program.coefficients[:, 1] = program.coefficients[:, 0] * -0.5
        support = program.support.clone()
        model.train()
        loss_of(model, ROWS).backward()
        assert torch.equal(program.support[:, :2], support[:, :2])
        assert not torch.equal(program.support[:, 2:], support[:, 2:])

    def test_a_gradient_that_overflowed_tells_nothing(self) -> None:
        model = build()
        program = model.active_programs()[0]
        support = program.support.clone()
        program._told(torch.full_like(table_of(model), torch.inf), Atoms(model.backbone))
        assert torch.equal(program.support, support)

    @pytest.mark.parametrize("fused", [True, False])
    @pytest.mark.parametrize("clears", [True, False], ids=["to none", "to zeros"])
    def test_accumulated_passes_are_one_step(self, clears: bool, fused: bool) -> None:
        """Tokens, count and gradient of two half-batches are those of the whole, in steps that are due and others."""
        whole, parts = build(refit_every=2), build(refit_every=2)
        count, programs = torch.tensor(len(ROWS)), [model.active_programs()[0] for model in (whole, parts)]
        optimizers = [torch.optim.SGD(program.parameters(), lr=0.1, fused=fused) for program in programs]
        changed = []
        for _ in range(4):
            before = programs[1].support.clone()
            for model, batches in ((whole.train(), [ROWS]), (parts.train(), [ROWS[:2], ROWS[2:4], ROWS[4:]])):
                for rows in batches:
                    loss_of(model, rows, count).backward()
            torch.testing.assert_close(*(p.coefficients.grad for p in programs), rtol=1e-4, atol=1e-6)
            assert torch.equal(programs[0].support, programs[1].support)
            changed.append(not torch.equal(programs[1].support, before))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=clears)
        assert [int(program.passes) for program in programs] == [4, 4] and changed == [True, False, True, False]

    def test_a_step_that_was_given_up_tells_nothing_of_the_next(self) -> None:
        """As after a gradient that overflowed: cleared, and no step of the optimiser."""
        given_up, fresh = build(), build()
        loss_of(given_up.train(), ROWS[:3]).backward()
        given_up.zero_grad()
        for model in (given_up, fresh):
            model.active_programs()[0].passes.zero_()
            loss_of(model.train(), ROWS[3:]).backward()
        gradients = [model.active_programs()[0].coefficients.grad for model in (given_up, fresh)]
        torch.testing.assert_close(*(g[:, 0] for g in gradients))
        rows = gradients[1].any(1)
        supports = [model.active_programs()[0].support[rows] for model in (given_up, fresh)]
        assert torch.equal(*supports)

    def test_training_goes_on_where_it_was_left(self, tmp_path: Path) -> None:
        """Support, what was dropped and the count of passes are saved: the next refit comes when it is due."""
        whole, part = build(refit_every=3), build(refit_every=3)
        for model in (whole, part):
            for _ in range(2):
                train_step(model)
        part.save_pretrained(tmp_path)
        base, tokenizer = tiny("bert")
        part = hr.AutoReprogramModel.from_pretrained(tmp_path, base, tokenizer, is_trainable=True)
        for model in (whole, part):
            for _ in range(3):
                train_step(model)
        states = [model.base_model.state("default") for model in (whole, part)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        assert int(states[0]["program.0.passes"]) == 5

    def test_few_numbers_train(self) -> None:
        assert [p.numel() for p in build().parameters() if p.requires_grad] == [26 * 4]


def _along(atoms: torch.Tensor, gradient: torch.Tensor) -> float:
    """How much of the gradient of the symbols' vectors lies in the directions of their tokens (symbols, k, width)."""
    basis = torch.linalg.qr(atoms.transpose(1, 2)).Q  # (symbols, width, k)
    return float(torch.einsum("swk,sw->sk", basis, gradient).norm() / gradient.norm())


def test_the_last_word_on_a_poor_approximation() -> None:
    model = build("free", atoms=2)
    with torch.no_grad():
        program = model.active_programs()[0]
        program.table.copy_(
            torch.randn(program.table.shape, generator=torch.Generator().manual_seed(7))
        )  # 0 is the base's own
    rows = program.explain(model.backbone)
    assert any(row["poor"] for row in rows)
    assert all(row["poor"] == (row["residual"] > 0.5) and len(row["ids"]["tokens"]) == 2 for row in rows)
    assert "poor True" in str(model.explain())


def test_capitals_that_are_one_token_start_apart() -> None:
    """A tokenizer that makes all small gives 'a' and 'A' one token: the first has it."""
    base, tokenizer = tiny("bert")
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    config = hr.ReprogramConfig(
        program=DictionaryConfig(symbols=["a", "A"], template="{text} it was{answer}", atoms=1, form="free"),
        mapping=MAPPING,
    )
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    assert not torch.equal(*table_of(model))


# What is given, and what the error says.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no symbols": ({"symbols": ""}, "DictionaryConfig.symbols: ''"),
    "more than the table": ({"atoms": 1000}, r"DictionaryConfig.atoms: 1000 of \d+ source tokens"),
    "more than the width": ({"atoms": 32}, "atoms: 32 for embeddings of width 32.*form='free'"),
    "rank": ({"form": "low_rank", "rank": 26}, "DictionaryConfig.rank: 26 for 26 symbols of width 32"),
    "a form": ({"form": "spare"}, "did you mean 'sparse'"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[dict[str, Any], str]) -> None:
    with pytest.raises(ConfigError, match=case[1]):
        build(**case[0])


def test_a_table_too_large_is_refused_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 500)
    tokens = tiny("bert")[0].config.vocab_size
    with pytest.raises(ConfigError, match=f"'dense' of 26 symbols on {tokens} .*{26 * tokens:,} numbers.*'low_rank'"):
        build("dense")


def test_a_symbol_outside_the_dictionary_is_named() -> None:
    with pytest.raises(DataError, match="'Q' at position 2"):
        build().predict(["abQ"])
    assert build(symbols=ascii_lowercase + "X", unknown="X").predict(["abQ"])


def test_rows_of_symbols_need_their_program() -> None:
    model = build()
    columns = model.collator()(["abc"])
    columns.pop("symbol_index")
    with pytest.raises(UsageError, match="symbol_index"):
        model(**columns)
    assert ascii_uppercase[0] not in model.peft_config["default"].program.symbols
