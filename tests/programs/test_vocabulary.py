"""The vocabulary: contexts by hand, where symbols start, what is read in training and otherwise, fold, explain."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from hf_reprogram.batch import Batch
from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ConfigError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.programs._tokens import nearest, plain_tokens, spelled
from hf_reprogram.programs.vocabulary import Vocabulary, VocabularyConfig, _nearest_to
from hf_reprogram.testing import CHECKS, ROWS, build, flags, logits_of, program_config, tiny
from hf_reprogram.testing.helpers import close, loss_of, train_step, unlabelled
from hf_reprogram.training.trainer import make_trainer


WORDS = {"type": "verbalizer", "words": {"negative": [" bad"], "positive": [" good"]}}
NAMES = ["film", "good", "zz", "so"]  # the tiny tokenizers know all but one


def _model(family: str = "llama", seed: int = 0, **options: Any) -> ReprogramModel:
    base, tokenizer = tiny(family)
    program = {"template": "{text} it was{answer}", "symbols": string.ascii_lowercase, **options}
    config = ReprogramConfig(program=VocabularyConfig(**program), mapping=WORDS)
    return get_reprogram_model(base, config, tokenizer, seed=seed)


def _program(model: ReprogramModel) -> Vocabulary:
    return model.active_programs()[0]


class _Facts:
    """A backbone of twenty tokens, whose vectors are their numbers."""

    vocab_size = 20

    @staticmethod
    def embed(ids: torch.Tensor) -> torch.Tensor:
        return ids.float().unsqueeze(-1)


def _bare(context: int = 3, **options: Any) -> Vocabulary:
    """Symbols A, B and candidates 5, 6, 7, on a backbone of one dimension, all logits 0."""
    config = VocabularyConfig(symbols="AB", context=context, candidates=3, **options)
    program = Vocabulary(config, _Facts, 1.0)
    program.tokens.copy_(torch.tensor([5, 6, 7]))
    return program.eval()


def _batch(index: list[list[int]], mask: list[list[int]] | None = None) -> Batch:
    symbols = torch.tensor(index)
    ids = torch.full_like(symbols, 9)
    return Batch(
        ids, None if mask is None else torch.tensor(mask), embeds=_Facts.embed(ids), symbol_index=symbols
    )  # fmt: skip


class TestContext:
    """l_t = sum over j of table[j, s_(t+j)], over symbols of the row alone."""

    def test_by_hand(self) -> None:
        program = _bare()
        with torch.no_grad():
            program.table[0, 1] = torch.tensor([1.0, 0.0, 0.0])  # B on the left
            program.table[1, 0] = torch.tensor([0.0, 10.0, 0.0])  # A itself
            program.table[2, 0] = torch.tensor([0.0, 0.0, 100.0])  # A on the right
        found = program.logits(_batch([[-1, 1, 0, 0, -1]])).tolist()
        assert found == [[0.0, 0.0, 100.0], [1.0, 10.0, 100.0], [0.0, 10.0, 0.0]]

    def test_what_is_no_symbol_counts_for_nothing(self) -> None:
        """A word of the template, a special token, padding: on either side, of any amount."""
        program = _bare()
        torch.nn.init.normal_(program.table, generator=torch.Generator().manual_seed(0))
        alone = program.logits(_batch([[0, 1]]))
        for row, mask in (
            ([-1, -1, 0, 1], None),
            ([0, 1, -1], None),
            ([0, 0, 0, 1, 0], [0, 0, 1, 1, 0]),  # a padding that a careless collator filled with symbol 0
        ):
            found = program.logits(_batch([row], None if mask is None else [mask]))
            torch.testing.assert_close(found, alone, atol=0, rtol=0)
        parted = program.logits(_batch([[0, -1, 1]]))
        assert not torch.equal(parted, alone)

    def test_low_rank_is_the_product(self) -> None:
        program, whole = _bare(rank=1), _bare()
        generator = torch.Generator().manual_seed(0)
        for p in program.parameters():
            torch.nn.init.normal_(p, generator=generator)
        with torch.no_grad():
            whole.table.copy_(program.left @ program.right)
        batch = _batch([[0, 1, 1]])
        torch.testing.assert_close(program.logits(batch), whole.logits(batch))

    def test_symbols_of_another_program_are_refused(self) -> None:
        with pytest.raises(UsageError, match=r"symbol 2, and a program of 2 symbols"):
            _bare()(_batch([[0, 2]]), _Facts)


class TestTopK:
    """Candidates of each symbol's own."""

    def test_by_hand(self) -> None:
        """Logits where a symbol has a candidate, nothing elsewhere; the likeliest and the mixture follow."""
        program = _bare(1, top_k=2, eval_mode="soft")
        with torch.no_grad():
            program.own.copy_(torch.tensor([[2, 0], [1, 2]]))
            program.table.copy_(torch.tensor([[[0.0, 1.0], [3.0, 2.0]]]))
        batch = _batch([[0, 1, -1]])
        assert program.logits(batch).tolist() == [[1.0, -torch.inf, 0.0], [-torch.inf, 3.0, 2.0]]
        assert program.chosen(batch).tolist() == [5, 6]
        share = torch.tensor(1.0).sigmoid().item()  # of the likelier of two whose logits differ by 1
        by_hand = [share * 5 + (1 - share) * 7, share * 6 + (1 - share) * 7, 9.0]
        assert program(batch, _Facts).embeds.flatten().tolist() == pytest.approx(by_hand)

    def test_the_nearest_by_angle_begin_and_the_start_is_first(self) -> None:
        vectors = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.3], [-1.0, 0.0], [2.0, 0.0]])
        found = _nearest_to(torch.tensor([4, 1]), vectors, 3)
        assert found[0, 0] == 4 and set(found[0, 1:].tolist()) == {0, 2} and found[1, :2].tolist() == [1, 2]

    def test_symbols_start_as_themselves_beside_their_likes(self) -> None:
        model = _model("llama", symbols=NAMES, spaced=True, keep=0.9, top_k=4)
        program = _program(model)
        assert [p.numel() for p in program.parameters()] == [4 * 4]
        rows = {row["symbol"]: row for row in model.explain()["facts"] if "symbol" in row}
        assert [rows[name]["tokens"][0] for name in ("film", "good", "so")] == [" film", " good", " so"]
        assert all(row["shares"][0] == pytest.approx(0.9, abs=1e-3) for row in rows.values())

    @pytest.mark.parametrize("family", ["llama", "bert"])
    @pytest.mark.parametrize("check", CHECKS)
    def test_contract(self, check: str, family: str) -> None:
        program = VocabularyConfig(symbols=string.ascii_lowercase, template="{text} it was{answer}", top_k=5)
        CHECKS[check](ReprogramConfig(program=program, mapping=WORDS), family)

    def test_it_learns_and_folds(self) -> None:
        model = _model("bert", top_k=6)
        before = _program(model).table.clone()
        train_step(model)
        assert not torch.equal(_program(model).table, before)
        scores = logits_of(model, ROWS)
        model.fold()
        close(logits_of(model, ROWS), scores, 1e-6, "folded")
        assert _program(model).options.top_k is None and _program(model).options.folded

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"context": 3}, r"top_k: 5 with context=3\. Expected None"),
            ({"rank": 2}, r"top_k: 5 with rank=2"),
            ({"candidates": 4}, r"top_k: 5 of 4 candidates\. Expected at most 4"),
            ({"top_k": 1}, r"top_k: 1 is out of range"),
            ({"top_k": tiny("llama")[0].config.vocab_size}, r"top_k: \d+ of \d+ candidates"),  # some are no text
        ],
    )
    def test_what_cannot_be_meant(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            _model("llama", **{"top_k": 5, **options})


class TestReading:
    """What stands in the symbols' places."""

    logits = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])

    def _taught(self, **options: Any) -> Vocabulary:
        program = _bare(1, **options)
        with torch.no_grad():
            program.table.copy_(self.logits[None])
        return program

    def test_hard(self) -> None:
        embeds = self._taught()(_batch([[0, -1, 1]]), _Facts).embeds.flatten().tolist()
        assert embeds == [7.0, 9.0, 5.0]

    def test_soft(self) -> None:
        embeds = self._taught(eval_mode="soft")(_batch([[0, 1]]), _Facts).embeds.flatten()
        by_hand = self.logits.softmax(1) @ torch.tensor([5.0, 6.0, 7.0])
        torch.testing.assert_close(embeds, by_hand)

    def test_in_training_a_token_is_drawn_as_often_as_it_is_likely(self) -> None:
        program = self._taught().train()
        torch.manual_seed(0)
        with torch.no_grad():
            drawn = program(_batch([[0] * 4000]), _Facts).embeds.flatten()
        shares = [(drawn == token).float().mean().item() for token in (5, 6, 7)]
        assert shares == pytest.approx(self.logits[0].softmax(0).tolist(), abs=0.02)

    def test_straight_through_has_the_gradient_of_the_mixture(self) -> None:
        """Of y E with y = softmax(l / tau) at tau = 2 and the same noise."""
        gradients = []
        for estimator in ("straight_through", "gumbel_softmax"):
            program = self._taught(estimator=estimator).train()
            torch.manual_seed(0)
            program(_batch([[0, 1, 1]]), _Facts).embeds.sum().backward()
            gradients.append(program.table.grad)
        assert gradients[0].abs().sum() > 0
        torch.testing.assert_close(gradients[0], gradients[1])

    def test_the_same_seed_draws_the_same(self) -> None:
        program, found = self._taught().train(), []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            found.append(program(_batch([[0] * 50]), _Facts).embeds)
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])

    def test_the_temperature_falls_in_a_line_and_its_place_is_saved(self) -> None:
        """By steps of the optimiser: of four accumulated passes as of one."""
        for passes, fused in ((1, False), (4, False), (4, True)):  # torch counts no writes of a fused one
            program = self._taught(temperature=2.0, final_temperature=0.5, anneal_steps=3)
            program(_batch([[0]]), _Facts)
            assert program.annealed.item() == 2.0  # not a pass in training
            optimizer, used = torch.optim.Adam(program.parameters(), fused=fused), []
            for _ in range(5):
                for _ in range(passes):
                    program.train()(_batch([[0]]), _Facts).embeds.sum().backward()
                    used.append(program._now.item())
                optimizer.step()
                optimizer.zero_grad()
            assert used == pytest.approx([t for t in (2.0, 1.5, 1.0, 0.5, 0.5) for _ in range(passes)])
            assert program.state_dict()["steps"].tolist() == [5]

    def test_given_tokens_are_read(self) -> None:
        program = self._taught().train()
        with program.given(torch.tensor([1, 0])):
            assert program(_batch([[0, -1, 1]]), _Facts).embeds.flatten().tolist() == [6.0, 9.0, 5.0]
        assert program.steps.item() == 0 and program._given is None

    def test_a_row_without_symbols_stays_as_it_is(self) -> None:
        assert self._taught()(_batch([[-1, -1]]), _Facts).embeds.flatten().tolist() == [9.0, 9.0]


@pytest.mark.parametrize("family", ["llama", "bert", "t5", "bert-classifier"])
def test_what_is_read_is_what_the_base_makes_of_those_tokens(family: str) -> None:
    """Typing the remapped tokens gives the base's own scores."""
    base, tokenizer = tiny(family)
    classifier = family.endswith("classifier")
    config = ReprogramConfig(
        program=VocabularyConfig(
            symbols=string.ascii_lowercase, context=3, template="{text}" + ("" if classifier else " it was{answer}")
        ),
        mapping={"type": "linear", "on": "classes", "solver": "gradient"} if classifier else WORDS,
        labels=["negative", "positive"],
    )
    model = get_reprogram_model(base, config, tokenizer)
    train_step(model)
    program, columns = _program(model), model.collator()(unlabelled(ROWS[:3]))
    batch, reading = model.reprogrammed.batch(**columns), model.active_mapping().reading()
    typed = program.read(batch)
    assert not torch.equal(typed, batch.input_ids)
    plain = {k: v for k, v in columns.items() if k != "symbol_index"}
    with torch.no_grad():
        own = model.reprogrammed.batch(**{**plain, "input_ids": typed})
        own = model.backbone.run(model.backbone.bring(own, "embeds"), reading).values
    close(model.reprogrammed.readout(columns, reading), own, 1e-6, family)


class TestStart:
    """Tokens, not the mean of all of them (T§3)."""

    def test_special_tokens_are_no_candidates(self) -> None:
        for family in ("llama", "bert", "t5"):
            _, tokenizer = tiny(family)
            found = set(_program(_model(family)).tokens.tolist()) - {-1}
            assert found == set(plain_tokens(tokenizer, 10**6)) and not found & set(tokenizer.all_special_ids)

    def test_tokens_in_brackets_are_no_text(self) -> None:
        class Tokenizer:
            all_special_ids = [0]
            added_tokens_decoder: dict[int, Any] = {}

            @staticmethod
            def convert_ids_to_tokens(ids: range) -> list[str]:
                return ["[CLS]", "[unused7]", "<0x0A>", "[", "<", "a", "[]"][: len(ids)]

            def __len__(self) -> int:
                return 7

        assert plain_tokens(Tokenizer(), 100) == [3, 4, 5, 6]
        assert plain_tokens(Tokenizer(), 4) == [3]  # more tokens than the base has vectors

    def test_a_known_symbol_starts_as_itself(self) -> None:
        model = _model("llama", symbols=NAMES, spaced=True, keep=0.9)
        rows = {row["symbol"]: row for row in model.explain()["facts"] if "symbol" in row}
        assert [rows[name]["tokens"][0] for name in ("film", "good", "so")] == [" film", " good", " so"]
        for row in rows.values():
            assert row["shares"][0] == pytest.approx(0.9, abs=1e-3) and sum(row["shares"]) < 1

    def test_low_rank_starts_as_sharp_as_it_can(self) -> None:
        model = _model("llama", symbols=NAMES, spaced=True, rank=3, keep=0.5)
        program, (_, tokenizer) = _program(model), tiny("llama")
        found = program._likely(program._alone())
        assert tokenizer.decode([found[0]["ids"]["tokens"][0]]) == " film"
        assert sum(row["shares"][0] for row in found) / 4 > 0.5

    def test_pieces_start_near_their_mean(self) -> None:
        class Table:
            @staticmethod
            def vectors(ids: list[int]) -> torch.Tensor:
                return torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])[ids]

        candidates = torch.tensor([[0.0, -3.0], [2.0, 2.1], [0.1, 1.0]])
        found = nearest([[0, 1], [], [1]], torch.tensor([7, 8, 9]), candidates, Table)
        assert found.tolist() == [1, 8, 2]

    def test_a_symbol_is_known_with_a_space_or_without(self) -> None:
        _, tokenizer = tiny("llama")  # byte-level: "film" and " film" are two tokens
        plain = plain_tokens(tokenizer, 10**6)
        for spaced, text in ((True, " film"), (False, "film")):
            (ids,) = spelled(["film"], tokenizer, spaced, plain)
            assert tokenizer.decode(ids) == text
        assert spelled(["zz"], tokenizer, False, plain) == [[]]

    def test_fewer_candidates_than_tokens_are_drawn_by_the_seed(self) -> None:
        first, again, other = (_program(_model(candidates=12, seed=s)).tokens.tolist() for s in (1, 1, 2))
        assert first == again != other and len(set(first)) == 12 and -1 not in first
        _, tokenizer = tiny("llama")
        assert {tokenizer.convert_tokens_to_ids(name) for name in ("a", "i")} <= set(first)  # letters that are words

    def test_all_candidates_is_the_whole_vocabulary(self) -> None:
        model = _model(candidates=10**7)
        assert len(_program(model).tokens) == model.backbone.vocab_size

    def test_a_tokenizer_is_needed(self) -> None:
        base, _ = tiny("bert-encoder")
        config = ReprogramConfig(
            program=VocabularyConfig(symbols="AB"), mapping={"type": "linear", "pool": "mean"}, labels=["a", "b"]
        )
        was = flags(base)
        with pytest.raises(ConfigError, match="no tokenizer"):
            get_reprogram_model(base, config)
        assert flags(base) == was


class TestFold:
    """One token per symbol."""

    def test_a_folded_program_scores_the_same(self) -> None:
        model = _model("bert", context=1, rank=2, temperature=3.0)
        train_step(model)
        before = logits_of(model, ROWS)
        model.fold(into="plain")
        model.set_adapter("plain")
        close(logits_of(model, ROWS), before, 1e-6, "folded")
        state = model.base_model.state("plain")
        assert state["program.0.tokens"].shape == (26,) and len(state) == 1
        assert _program(model).options.rank is None and not list(_program(model).parameters())
        model.fold()  # itself
        close(logits_of(model, ROWS), before, 1e-6, "folded twice")
        assert [set(row) for row in model.explain()["facts"]] == [{"symbol", "token"}] * 26

    def test_contexts_and_mixtures_stay_what_they_are(self) -> None:
        for options in ({"context": 3}, {"context": 1, "eval_mode": "soft"}):
            model = _model("bert", **options)
            model.fold()
            assert not _program(model).options.folded

    def test_it_is_made_of_a_trained_one_only(self) -> None:
        with pytest.raises(ConfigError, match=r"folded: True for a fresh program.*model\.fold"):
            _model(folded=True)


def test_explain_tells_the_commonest_contexts_of_a_batch() -> None:
    model = _model("bert", context=3)
    batch = model.reprogrammed.batch(**model.collator()(["so so", "so"]))
    rows = [row for row in _program(model).explain(model.backbone, batch) if "symbol" in row]
    assert [row["context"] for row in rows[:2]] == [["", "s", "o"], ["s", "o", ""]] and len(rows) == 4
    assert {row["symbol"] for row in rows} == {"s", "o"}
    page = str(model.explain())
    assert "temperature" not in page and "symbol a" in page  # nothing was trained by gradients


@pytest.mark.parametrize(
    ("program", "counter"), [("vocabulary", "steps"), ("words", "steps"), ("dictionary", "passes")]
)
def test_a_trainer_that_accumulates_counts_its_own_steps(program: str, counter: str, tmp_path: Path) -> None:
    """With its default optimiser, which is fused."""
    model = build(program_config(program, "bert"), "bert")
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=3, use_cpu=True,
        report_to=[], save_strategy="no", remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    make_trainer(model, arguments, ROWS).train()
    assert int(getattr(model.active_programs()[0], counter)) == 2


def test_it_learns_with_a_prompt_beside_it() -> None:
    """The prompt lays the row out; both learn."""
    base, tokenizer = tiny("bert")
    config = ReprogramConfig(
        program=[
            {"type": "prompt", "template": "{prompt:2} {text} it was{answer}"},
            VocabularyConfig(symbols=string.ascii_lowercase, anneal_steps=30),
        ],
        mapping=WORDS,
    )
    model = get_reprogram_model(base, config, tokenizer)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.3)
    before = model.evaluate(ROWS)["loss"]
    model.train()
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(model, ROWS).backward()
        optimizer.step()
    assert model.evaluate(ROWS)["loss"] < 0.5 * before


# What is given, and what the error says.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "even": ({"context": 4}, "context: 4.*an odd number"),
    "estimator": ({"estimator": "gumbel"}, "estimator: 'gumbel'.*did you mean 'gumbel_softmax'"),
    "no symbols": ({"symbols": ""}, "symbols"),
    "one candidate": ({"candidates": 1}, "candidates: 1 is out of range"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_meant(case: tuple[dict[str, Any], str]) -> None:
    given, says = case
    with pytest.raises(ConfigError, match=says):
        VocabularyConfig(**{"symbols": "AB", **given})


def test_a_temperature_that_rises() -> None:
    with pytest.raises(ConfigError, match=r"final_temperature: 1.0, above temperature=0.5"):
        VocabularyConfig(symbols="AB", temperature=0.5, final_temperature=1.0).resolve(None, _Facts, None)


def test_a_table_too_large_says_its_size_and_what_would_do() -> None:
    class Large(_Facts):
        vocab_size = 250_000

    options = VocabularyConfig(symbols=[str(i) for i in range(5000)], candidates=10**7)
    with pytest.raises(ConfigError, match=r"5,000 by 250,000, 4\.7 GB.*rank=16 takes 16 MB"):
        options.resolve(None, Large, None)
    options = VocabularyConfig(symbols=[str(i) for i in range(5000)], candidates=10**7, rank=16)
    options.resolve(None, Large, None)
    assert options.candidates == 250_000
    with pytest.raises(ConfigError, match=r"rank: 2 of a table of 2 by 20.*less than 2"):
        VocabularyConfig(symbols="AB", rank=2).resolve(None, _Facts, None)
