"""Training by answers alone: estimates by hand, budgets, a program that is taken only where it is worth it."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.errors import ConfigError, DataError, UsageError
from hf_reprogram.mappings.linear import penalties_of, ridge
from hf_reprogram.testing import ROWS, tiny
from hf_reprogram.testing.helpers import LABELS, state_hash
from hf_reprogram.tools.blackbox.optimisers import SEARCHES, OnePlusOne, one_sided, search_of, two_sided
from hf_reprogram.tools.blackbox.trial import Space, Trial


def square(x: np.ndarray) -> np.ndarray:
    return np.square(x).sum(-1)


class TestEstimates:
    """The reference's vectors (M§B): L(w) = |w|^2 at (1, 2)."""

    def test_bar_towards_the_gradient(self) -> None:
        at = np.array([1.0, 2.0])
        assert one_sided(np.vstack([at, at + 0.1 * np.eye(2)]), square(np.vstack([at, at + 0.1 * np.eye(2)]))) == (
            pytest.approx([2.1, 4.1])
        )
        search = search_of("bar", 2, 0, 20_000)
        search.mean = at
        points = search.ask()
        assert one_sided(points, square(points)) == pytest.approx([2.0, 4.0], abs=0.1)

    def test_spsa_towards_the_gradient(self) -> None:
        at, corner = np.array([1.0, 2.0]), 0.1 * np.array([0.6, -0.8])
        points = np.stack([at + corner, at - corner])
        assert two_sided(points, square(points)) == pytest.approx([-10 / 3, 2.5])
        search = search_of("spsa", 2, 0, 50_000)
        search.mean = at
        points = search.ask()
        assert np.abs(points[: len(points) // 2] - at).min() >= 0.5 * 0.1 * 0.999  # nothing is divided by less
        assert two_sided(points, square(points)) == pytest.approx([2.0, 4.0], abs=0.1)

    @pytest.mark.parametrize("name", SEARCHES)
    def test_each_finds_a_minimum_the_same_way_twice(self, name: str) -> None:
        target, found = np.linspace(-1, 1, 8), []
        for _ in range(2):
            search, used, best = search_of(name, 8, 3), 0, np.inf
            while used < 800:
                points = search.ask()
                losses = square(points - target)
                search.tell(points, losses)
                used, best = used + len(points), min(best, losses.min())
            found.append((best, search.mean))
        assert found[0][0] < 0.05 * square(target)
        np.testing.assert_array_equal(found[0][1], found[1][1])

    @pytest.mark.parametrize("name", SEARCHES)
    def test_a_generation_has_as_many_points_as_it_says(self, name: str) -> None:
        for population in (None, 2):
            search = search_of(name, 3, 0, population)
            assert len(search.ask()) == search.generation

    def test_one_success_in_five_keeps_the_step(self) -> None:
        search = OnePlusOne(3, 0)
        search.tell(search.ask(), np.array([1.0]))
        start = search.sigma
        for loss in (0.9, 2.0, 2.0, 2.0, 2.0):
            search.tell(search.ask(), np.array([loss]))
        assert search.sigma == pytest.approx(start)

    @pytest.mark.parametrize(("scale", "name"), [(1e6, "spsa"), (1e6, "antithetic")])
    def test_large_losses_do_not_run_away(self, scale: float, name: str) -> None:
        """Raw SPSA steps diverge where losses are large (M§B.7)."""
        search = search_of(name, 10, 0)
        for _ in range(50):
            points = search.ask()
            search.tell(points, scale * square(points - 1.0))
        assert np.abs(search.mean).max() < 3.0


def ask(texts: Sequence[str]) -> list[list[float]]:
    return [[float(t.count("o")), float(t.count("e")), 1.0] for t in texts]


TEXTS = [
    {"text": text, "label": label}
    for text, label in [("foo", "o"), ("eel", "e"), ("wood", "o"), ("bee", "e"), ("oboe", "o"), ("teepee", "e")] * 2
]


def of_a_local_model(program: Any, mapping: Any = None, **more: Any) -> hr.ReprogramModel:
    base, tokenizer = tiny("bert-classifier")
    mapping = mapping or hr.LinearConfig(on="classes")
    config = hr.ReprogramConfig(program=program, mapping=mapping, labels=LABELS, **more)
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


def of_a_model_that_is_asked(asked: Any, outputs: int = 3, program: Any = None, **channel: Any) -> hr.ReprogramModel:
    base, tokenizer = hr.remote_text(asked, ["o", "e", "one"][:outputs], "letters", **channel)
    config = hr.ReprogramConfig(
        program=program or {"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"),
        labels=["o", "e"],
    )  # fmt: skip
    return hr.get_reprogram_model(base, config, processing_class=tokenizer)


PROMPT = {"type": "prompt", "template": "{prompt:4} {text}"}


class TestFit:
    """`fit_blackbox`."""

    def test_the_map_alone_is_what_fit_mapping_finds(self) -> None:
        model, same = of_a_local_model("none"), of_a_local_model("none")
        outcome = hr.fit_blackbox(model, ROWS, validation=ROWS)
        same.fit_mapping(ROWS)
        assert torch.equal(model.active_mapping().matrix, same.active_mapping().matrix)
        assert (outcome.chosen, outcome.optimizer, outcome.evaluations) == ("map only", "none", 1)
        assert outcome.wanted == outcome.sent == 2 * len(ROWS)
        assert model.peft_config["default"].training["blackbox"]["chosen"] == "map only"

    def test_a_map_that_is_fitted_on_another_reading_than_it_maps(self) -> None:
        """`similarity` is estimated from states, and maps classes."""
        mapping = hr.SimilarityConfig(per_label=1)
        model, same = of_a_local_model("none", mapping), of_a_local_model("none", mapping)
        outcome = hr.fit_blackbox(model, ROWS, ROWS)
        same.fit_mapping(ROWS)
        assert torch.equal(model.active_mapping().groups, same.active_mapping().groups)
        assert outcome.sent == 2 * len(ROWS)  # both of one pass
        found = same.evaluate(ROWS)
        assert outcome.validation == found["accuracy"] and outcome.loss == pytest.approx(found["loss"], rel=1e-5)
        model = of_a_local_model(PROMPT, mapping)
        outcome = hr.fit_blackbox(model, ROWS, ROWS, evaluations=8, optimizer="one_plus_one")
        assert outcome.evaluations == 8 and outcome.validation == model.evaluate(ROWS)["accuracy"]

    def test_a_map_with_a_memory_remembers_no_other_program(self) -> None:
        model = of_a_local_model(PROMPT, hr.LabelsConfig(remember=0.9, per_label=1))
        trial, space = Trial(model, ROWS, ROWS, None, 32, 0), Space(model, None, 0)
        start, other = space.numbers(np.zeros(space.size)), space.numbers(np.ones(space.size))
        counts = [trial.judge(numbers) and model.active_mapping().counts.clone() for numbers in (start, other, start)]
        assert torch.equal(counts[0], counts[2]) and counts[0].sum() > 0

    def test_the_loss_weighs_rows_as_the_map_does(self) -> None:
        def loss(weight: float) -> tuple[float, float]:
            model = of_a_local_model(
                "none", hr.LinearConfig(on="classes"), class_weight={"negative": weight, "positive": 1.0}
            )
            found = hr.fit_blackbox(model, ROWS, ROWS).loss
            trial = Trial(model, ROWS, ROWS, None, 32, 0)
            z = trial._read(trial.made, trial.readings())[0].double().numpy()
            factors = np.where(trial.y.numpy() == model.label_names().index("negative"), weight, 1.0)
            return found, ridge(z, trial.member, penalties_of(z, trial.member, factors), factors)[3]

        (light, by_hand), (heavy, heavy_by_hand) = loss(1.0), loss(5.0)
        assert light == pytest.approx(by_hand) and heavy == pytest.approx(heavy_by_hand) and light != heavy

    def test_its_seed_is_not_taken_for_that_of_the_program_s_start(self) -> None:
        """Arithmetic makes the start again from that one."""
        model = of_a_local_model("none")
        hr.fit_blackbox(model, ROWS, validation=ROWS, seed=7)
        record = model.peft_config["default"].training
        assert record["seed"] == 0 and record["blackbox"]["seed"] == 7

    @pytest.mark.parametrize("name", SEARCHES)
    def test_no_gradient_is_taken_and_the_base_is_as_it_was(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        model = of_a_local_model(PROMPT)
        before = state_hash(model.backbone.base)

        def refused(*_: Any, **__: Any) -> None:
            raise AssertionError("a gradient was asked for")

        monkeypatch.setattr(torch.Tensor, "backward", refused)
        monkeypatch.setattr(torch.autograd, "grad", refused)
        outcome = hr.fit_blackbox(model, ROWS * 2, evaluations=40, optimizer=name, validation=ROWS)
        assert 1 < outcome.evaluations <= 40 and outcome.loss <= outcome.loss_of_map
        assert outcome.validation >= outcome.validation_of_map
        assert state_hash(model.backbone.base) == before

    def test_what_is_left_in_force_is_what_was_judged(self) -> None:
        for seed in range(3):
            model = of_a_local_model(PROMPT, hr.LabelsConfig())
            outcome = hr.fit_blackbox(model, ROWS, ROWS, evaluations=330, seed=seed)
            assert model.evaluate(ROWS)["accuracy"] == pytest.approx(outcome.validation)
            if outcome.chosen == "program":
                assert outcome.validation > outcome.validation_of_map

    def test_a_program_that_is_no_better_is_not_taken(self) -> None:
        model = of_a_local_model(PROMPT, hr.LinearConfig(on="state", pool="mean"))
        start = model.active_programs()[0].slots.detach().clone()
        outcome = hr.fit_blackbox(model, ROWS, ROWS, evaluations=330)
        assert outcome.validation_of_map == 1.0 and outcome.chosen == "map only"
        assert torch.equal(model.active_programs()[0].slots, start)

    def test_auto_searches_only_where_it_is_worth_it(self) -> None:
        found = hr.fit_blackbox(of_a_local_model(PROMPT), ROWS, ROWS, evaluations=299)
        assert found.optimizer == "none" and "fewer than the 300" in found.stopped and "optimizer=" in found.stopped
        assert hr.fit_blackbox(of_a_local_model(PROMPT), ROWS, ROWS, evaluations=300).optimizer == "cma"
        assert hr.fit_blackbox(of_a_local_model("none"), ROWS, ROWS, evaluations=9000).optimizer == "none"

    def test_a_large_program_is_searched_on_a_fixed_projection(self) -> None:
        model = of_a_local_model(PROMPT)
        whole = model.active_programs()[0].slots.numel()
        space = Space(model, None, 0)
        assert whole > 100 and space.size == 50
        np.testing.assert_array_equal(space.numbers(np.zeros(50)), space.start)
        z = np.eye(50)[0]
        np.testing.assert_array_equal(space.numbers(z), Space(model, None, 0).numbers(z))
        spread = (space.numbers(np.ones(50)) - space.start).std()
        assert spread == pytest.approx(space.unit.mean(), rel=0.2)  # a unit of z moves each number by a unit
        assert Space(model, 10**6, 0).projection is None

    def test_a_model_that_is_asked_is_asked_once(self, tmp_path: Path) -> None:
        sent = []
        for most in (None, 2 + 12, 0):
            base, tokenizer = hr.remote_text(
                ask, ["o", "e", "one"], "letters", cache=tmp_path / f"{most == 0}.db", most=most
            )
            config = hr.ReprogramConfig(
                program={"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"),
                labels=["o", "e"],
            )  # fmt: skip
            if most == 0:
                with pytest.raises(hr.BudgetError):
                    hr.get_reprogram_model(base, config, processing_class=tokenizer)
                continue
            model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
            outcome = hr.fit_blackbox(model, TEXTS)
            sent.append(base.model.channel.sent)
            assert outcome.validation == 1.0 and outcome.wanted == len(TEXTS)
        assert sent == [2 + 6 + 1, 0]  # two of the probe; six texts, each of which stands twice; one is asked again

    def test_a_budget_that_ends_in_the_search_leaves_the_best_so_far(self) -> None:
        def waves(given: Sequence[Any]) -> list[list[float]]:
            return [[float(w.mean()), float(w.std()), float(w[:800].std())] for w in given]

        from hf_reprogram.testing import AUDIO_ROWS

        base, extractor = hr.remote_audio(waves, ["a", "b", "c"], "stats", most=100)
        config = hr.ReprogramConfig(program="waveform", mapping=hr.LinearConfig(on="classes"), labels=LABELS)
        model = hr.get_reprogram_model(base, config, processing_class=extractor)
        outcome = hr.fit_blackbox(model, AUDIO_ROWS, AUDIO_ROWS, evaluations=1000)
        assert "more are needed" in outcome.stopped and outcome.sent <= 100
        assert model.evaluate(AUDIO_ROWS)["accuracy"] == pytest.approx(outcome.validation)

    def test_no_more_programs_than_allowed(self) -> None:
        """A generation of 16 and the start are 17; the mean of the search would be another one."""
        outcome = hr.fit_blackbox(of_a_local_model(PROMPT), ROWS, ROWS, evaluations=17, optimizer="cma")
        assert outcome.evaluations == 17

    def test_an_endpoint_that_goes_down_leaves_the_best_so_far(self) -> None:
        from hf_reprogram.testing import AUDIO_ROWS

        calls = []

        def falling(given: Sequence[Any]) -> list[list[float]]:
            calls.append(len(given))
            if len(calls) > 6:
                raise hr.BaseModelError("endpoint", "down", "an answer")
            return [[float(w.mean()), float(w.std())] for w in given]

        base, extractor = hr.remote_audio(falling, ["a", "b"], "stats")
        config = hr.ReprogramConfig(program="waveform", mapping=hr.LinearConfig(on="classes"), labels=LABELS)
        model = hr.get_reprogram_model(base, config, processing_class=extractor)
        start = next(model.active_programs()[0].parameters()).detach().clone()
        with pytest.raises(hr.BaseModelError, match="down"):
            hr.fit_blackbox(model, AUDIO_ROWS, AUDIO_ROWS, evaluations=400)
        assert torch.equal(next(model.active_programs()[0].parameters()), start)
        assert not model.active_mapping().needs_fit

    def test_answers_that_are_not_the_same_twice_are_told(self, caplog: pytest.LogCaptureFixture) -> None:
        random = np.random.default_rng(0)
        base, extractor = hr.remote_audio(lambda w: random.normal(size=(len(w), 2)), ["a", "b"], "noise")
        config = hr.ReprogramConfig(program="waveform", mapping=hr.LinearConfig(on="classes"), labels=LABELS)
        model = hr.get_reprogram_model(base, config, processing_class=extractor)
        from hf_reprogram.testing import AUDIO_ROWS

        hr.fit_blackbox(model, AUDIO_ROWS, AUDIO_ROWS, evaluations=20, optimizer="one_plus_one")
        assert "Two answers to one question (a wave of" in caplog.text

    def test_a_map_alone_is_told_too_that_answers_differ(self, caplog: pytest.LogCaptureFixture) -> None:
        random = np.random.default_rng(0)
        model = of_a_model_that_is_asked(lambda texts: random.normal(size=(len(texts), 3)))
        assert hr.fit_blackbox(model, TEXTS, TEXTS).chosen == "map only"
        assert any(f"one question ({row['text']!r}) differ" in caplog.text for row in TEXTS)

    def test_the_last_of_the_budget_is_not_spent_on_a_question_asked_twice(self) -> None:
        model = of_a_model_that_is_asked(ask, most=2 + 6)
        assert hr.fit_blackbox(model, TEXTS, TEXTS).sent == 6

    @pytest.mark.parametrize("words", ["abcd", string.ascii_letters])
    def test_words_are_searched_by_default(self, words: str) -> None:
        """Only the likeliest word of a slot is read: steps that turn no logit over would ask one text for ever."""

        def told(texts: Sequence[str]) -> list[list[float]]:
            """What is asked after every second word, and nothing after the others."""
            heard = [len(t) > 1 and ord(t[0]) % 2 != odd for t in texts]
            return [
                [float(t.count("o")) * yes, float(t.count("e")) * yes] for t, yes in zip(texts, heard, strict=True)
            ]

        odd = 2  # while it is wrapped, anything is heard
        model = of_a_model_that_is_asked(
            told, 2, {"type": "words", "template": "{prompt:1} {text}", "words": [*words]}
        )
        program = model.active_programs()[0]
        read = int(program.tokens[program.table.argmax(1)])
        odd = ord(model.processing_class.decode([read])[0]) % 2  # the word at which it starts is the wrong one
        outcome = hr.fit_blackbox(model, TEXTS, TEXTS, evaluations=400)
        assert outcome.optimizer == "cma" and outcome.chosen == "program" and outcome.validation == 1.0
        assert outcome.validation_of_map == 0.5 and int(program.tokens[program.table.argmax(1)]) != read

    def test_a_search_that_changed_no_answer_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        model = of_a_model_that_is_asked(
            lambda texts: ask([t.split()[-1] for t in texts]),
            program={"type": "words", "template": "{prompt:1} {text}"},
        )
        outcome = hr.fit_blackbox(model, TEXTS, TEXTS, evaluations=20, optimizer="cma")
        assert "programs were answered alike" in outcome.stopped and "changed no answer" in caplog.text

    @pytest.mark.parametrize(
        ("change", "error", "says"),
        [
            ({"optimizer": "cmaes"}, ConfigError, "'cmaes'.*did you mean 'cma'"),
            ({"optimizer": "cma", "evaluations": 16}, UsageError, "generations have 16 points.*population=N"),
            ({"evaluations": 0}, UsageError, "a whole number from 1"),
            ({"population": 0}, UsageError, r"\(population\): 0. Expected a whole number from 1"),
            ({"population": 1, "optimizer": "cma"}, ConfigError, r"\(population\): 1 for 'cma'.*2.*'one_plus_one'"),
            ({"dimension": 0}, UsageError, r"\(dimension\): 0. Expected a whole number from 1"),
            ({"dimension": -1}, UsageError, r"\(dimension\): -1"),
            ({"seed": -1}, UsageError, r"\(seed\): -1. Expected a whole number from 0"),
            ({"seed": 2**32 - 1, "validation": None}, UsageError, r"\(seed\): 4294967295"),
            ({"seed": 0.5}, UsageError, r"\(seed\): 0.5"),
            ({"rows": [{"text": "so good"}] * 4}, DataError, "without labels"),
            ({"rows": ROWS[:2], "validation": None}, DataError, "no quarter of them has each label"),
        ],
        ids=str,
    )
    def test_what_cannot_be_meant(self, change: dict[str, Any], error: type[Exception], says: str) -> None:
        given = {"rows": ROWS, "validation": ROWS} | change
        with pytest.raises(error, match=says):
            hr.fit_blackbox(of_a_local_model(PROMPT), **given)

    def test_a_map_that_trains(self) -> None:
        model = of_a_local_model("none", hr.LinearConfig(on="classes", solver="gradient"))
        with pytest.raises(UsageError, match="trains by gradients"):
            hr.fit_blackbox(model, ROWS)

    def test_seed_0_is_a_seed(self) -> None:
        """cma takes 0 for the time of day."""
        draws = [search_of("cma", 5, 0).ask() for _ in range(2)]
        np.testing.assert_array_equal(*draws)


def test_a_model_that_answers_all_rows_alike_is_refused(tmp_path: Path) -> None:
    base, tokenizer = hr.remote_text(lambda texts: [[0.0, 1.0] for _ in texts], ["good", "bad"], source="same@1")
    config = hr.ReprogramConfig(
        program={"type": "none", "template": "{text}"}, mapping=hr.LinearConfig(on="classes"), labels=LABELS
    )
    model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
    with pytest.raises(DataError, match="the same for all 6 rows"):
        hr.fit_blackbox(model, ROWS, ROWS)
