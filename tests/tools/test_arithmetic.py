"""Programs as numbers: sums, means and negations, with the start that they are counted from."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import ArtefactError, ConfigError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, logits_of, tiny
from hf_reprogram.tools.arithmetic import plain_form, started
from tests.artefact_kit import KINDS, MORE_KINDS, PROMPT, VERBALIZER, linear, nothing_changes, prompt, words


def taught(
    kind: dict[str, Any], names: tuple[str, ...] = ("a", "b"), seeds: tuple[int, ...] = (4, 4)
) -> ReprogramModel:
    """A tiny llama with programs of one kind, each moved away from its start by numbers of its own."""
    base, tokenizer = tiny("llama")
    model = get_reprogram_model(base, ReprogramConfig(**kind), tokenizer, names[0], seeds[0])
    for name, seed in zip(names[1:], seeds[1:], strict=True):
        model.add_adapter(name, ReprogramConfig(**kind), seed=seed)
    for i, name in enumerate(names):
        if model.base_model.sites()[1].entries[name].needs_fit:
            model.set_adapter(name)
            model.fit_mapping(ROWS[i:])
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for site in model.base_model.sites():
                for p in site.entries[name].parameters():
                    p += 0.1 * torch.randn(p.shape, generator=generator)
    model.set_adapter(names[0])
    return model


def slots(model: ReprogramModel, name: str) -> torch.Tensor:
    """The vectors of a prompt."""
    return model.base_model.state(name)["program.0.slots"].detach().clone()


class TestTheStart:
    @pytest.mark.parametrize("kind", [k for k in KINDS | MORE_KINDS if k not in ("ridge", "logistic", "batch")])
    def test_is_made_again_to_the_bit_from_config_and_seed(self, kind: str, tmp_path: Path) -> None:
        """Also after training, saving and loading: the artefact carries the seed, not the numbers."""
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, ReprogramConfig(**(KINDS | MORE_KINDS)[kind]), tokenizer, seed=11)
        begun = {key: t.clone() for key, t in plain_form(model, "default")[1].items()}
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p += 1
        model.save_pretrained(tmp_path)
        again = ReprogramModel.from_pretrained(tiny("llama")[0], tmp_path, processing_class=tokenizer)
        assert again.peft_config["default"].training["seed"] == 11
        for one in (model, again):
            found = started(one, "default", one.peft_config["default"].training["seed"])
            assert found.keys() == begun.keys() and all(torch.equal(found[key], begun[key]) for key in begun)

    def test_making_it_changes_nothing(self) -> None:
        """The mapping's own calibration is run for it under a program that is made active for a moment."""
        for kind in ("prompt", "contextual"):
            model = taught(KINDS[kind])
            model.base_model.set_requires_grad("a", False)
            with nothing_changes(model):
                started(model, "b", 4)
            assert sorted(model.peft_config) == ["a", "b"] and model.active_name() == "a"
            assert not any(p.requires_grad for p in model.parameters())


SYMBOLS = "abcdefghijklmnopqrstuvwxyz"
FOLDS = {
    "residual": prompt(parametrisation="residual", bottleneck=8),
    "low-rank": prompt(parametrisation="low_rank", rank=2),
    "projection": {"program": {"type": "projection", "symbols": SYMBOLS, "template": "{text} it was{answer}"},
                   "mapping": VERBALIZER},
    "dictionary": {"program": {"type": "dictionary", "symbols": SYMBOLS, "template": "{text} it was{answer}",
                               "atoms": 4}, "mapping": VERBALIZER},
    "tokens": {"program": {"type": "projection", "symbols": SYMBOLS},
               "mapping": {"type": "tokens", "symbols": SYMBOLS, "most": 3}},
}  # fmt: skip


def _same(model: ReprogramModel, name: str, other: str) -> None:
    """Two programs of one form hold the same numbers."""
    one, two = model.base_model.state(name), model.base_model.state(other)
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", FOLDS.values(), ids=FOLDS)
class TestFolded:
    """The start of a folded program is its old form's, folded: the plain options with that seed make another."""

    def test_one_that_was_not_trained_has_nothing_to_unlearn(self, kind: dict[str, Any]) -> None:
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, ReprogramConfig(**kind), tokenizer, seed=4)
        model.fold()
        model.add_weighted_adapter(["default"], [-1.0], "neg")
        _same(model, "neg", "default")
        with torch.no_grad():  # it learns 1 everywhere: p0 + 1, of which p0 - 1 is the negation, p0 + 2 the double
            for p in model.active_programs()[0].parameters():
                p += 1
        for weight, expected in ((-1.0, -1.0), (2.0, 2.0)):
            model.add_weighted_adapter(["default"], [weight], f"by_{weight:.0f}")
            for key, tensor in model.base_model.state(f"by_{weight:.0f}").items():
                if key.startswith("program") and tensor.is_floating_point():
                    moved = tensor - model.base_model.state("neg")[key]
                    torch.testing.assert_close(moved, torch.full_like(tensor, expected), atol=1e-5, rtol=1e-5)

    def test_folding_before_or_after_is_one(self, kind: dict[str, Any], tmp_path: Path) -> None:
        """Also of what was folded, saved, loaded and folded again."""
        model = taught(kind, names=("a",), seeds=(4,))
        model.fold("a", into="f")
        model.save_pretrained(tmp_path, selected_adapters=["f"])
        model.load_adapter(tmp_path, "loaded")
        model.fold("loaded")
        for name in ("a", "f", "loaded"):
            model.add_weighted_adapter([name], [-1.0], f"neg_{name}")
        _same(model, "neg_a", "neg_f")
        _same(model, "neg_a", "neg_loaded")

    def test_twice_negated_is_the_program_again(self, kind: dict[str, Any]) -> None:
        model = taught(kind, names=("a",), seeds=(4,))
        model.add_weighted_adapter(["a"], [-1.0], "unlearned")
        model.add_weighted_adapter(["unlearned"], [-1.0], "again")
        model.fold("a")
        _same(model, "again", "a")


class TestTheRecordOfAStart:
    def test_goes_with_what_it_is_of(self) -> None:
        """A plain program needs none, and the config of a folded one makes a plain one of a start of its own."""
        model = taught(FOLDS["low-rank"], names=("a",), seeds=(4,))
        assert "started_as" not in model.peft_config["a"].training
        model.fold("a")
        assert model.peft_config["a"].training["started_as"]["program"][0]["rank"] == 2
        model.add_adapter("fresh", model.peft_config["a"], seed=4)
        assert model.peft_config["fresh"].training == {"seed": 4}
        model.add_weighted_adapter(["fresh"], [-1.0], "neg")
        _same(model, "neg", "fresh")
        with pytest.raises(ConfigError, match=r"start: .* PromptConfig\.parametrisation"):
            model.add_weighted_adapter(["a", "fresh"], [0.5, 0.5], "mean")

    @pytest.mark.parametrize(
        ("record", "says"),
        [
            (7, "7. Expected options of programs and mapping"),
            ({"program": FOLDS["projection"]["program"]}, "those of another program than 'a'"),
            ({"program": {"type": "prmpt"}}, "unknown program 'prmpt'"),
        ],
    )
    def test_that_is_none_is_refused(self, record: Any, says: str) -> None:
        model = taught(FOLDS["low-rank"], names=("a",), seeds=(4,))
        model.fold("a")
        model.peft_config["a"].training["started_as"] = record
        with nothing_changes(model), pytest.raises(ConfigError, match=says):
            model.add_weighted_adapter(["a"], [-1.0], "neg")

    def test_is_not_made_up_where_a_seed_is_unknown(self) -> None:
        """Of a mean of two programs, one of which does not say where it started."""
        model = taught(KINDS["prompt"])
        model.peft_config["b"].training = None
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
        assert "seed" not in model.peft_config["mean"].training
        with pytest.raises(UsageError, match="'mean' does not say the seed"):
            model.add_weighted_adapter(["mean"], [-1.0], "neg")
        model.add_weighted_adapter(["mean"], [-1.0], "neg", seed=4)


# Maps that rows estimate: in closed form, as the start of training, and as a correction of what words say.
ESTIMATED = {
    "ridge": linear(),
    "logistic": linear(solver="logistic"),
    "started": linear(solver="gradient", start="logistic"),
    "started-low-rank": linear(solver="gradient", start="ridge", rank=1),
    "batch": words({"negative": [" bad"], "positive": [" good"]}, calibration="batch"),
}


@pytest.mark.parametrize("kind", ESTIMATED.values(), ids=ESTIMATED)
class TestEstimatedMaps:
    def test_have_no_start_that_could_be_taken_off(self, kind: dict[str, Any]) -> None:
        model = taught(kind)
        for weights in ([-1.0], [1.0, 1.0]):
            given = ["a", "b"][: len(weights)], weights, "made"
            said = "weights: .* the map of 'a' .* was estimated from rows.*sum to 1.*fit_mapping"
            with nothing_changes(model), pytest.raises(UsageError, match=said):
                model.add_weighted_adapter(*given)

    def test_are_interpolated(self, kind: dict[str, Any]) -> None:
        model = taught(kind)
        model.add_weighted_adapter(["a", "b"], [0.25, 0.75], "between")
        model.add_weighted_adapter(["a", "b"], [2.0, -1.0], "beyond")
        one, two, *made = (model.base_model.state(name) for name in ("a", "b", "between", "beyond"))
        floats = [key for key, t in one.items() if t.is_floating_point()]
        assert any(key.startswith("mapping") and not torch.equal(one[key], two[key]) for key in floats)
        for key in floats:
            for (w, v), found in zip(((0.25, 0.75), (2.0, -1.0)), made, strict=True):
                torch.testing.assert_close(found[key], w * one[key] + v * two[key], atol=1e-5, rtol=1e-5)
        assert not model.base_model.sites()[1].entries["between"].needs_fit

    def test_that_no_row_has_estimated_yet_are_as_they_started(self, kind: dict[str, Any]) -> None:
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, ReprogramConfig(**kind), tokenizer, seed=4)
        model.add_weighted_adapter(["default"], [-1.0], "neg")
        _same(model, "neg", "default")
        assert model.base_model.sites()[1].entries["neg"].needs_fit


class TestSums:
    def test_one_task_with_weight_one_is_the_program_itself(self) -> None:
        model = taught(KINDS["trained-rows"])
        model.add_weighted_adapter(["b"], [1.0], "same")
        for key, tensor in model.base_model.state("b").items():
            assert torch.equal(model.base_model.state("same")[key], tensor), key

    def test_hand_computed(self) -> None:
        """p0 = (1, 1), a = (3, 1), b = (1, 6): what a learned is (2, 0), what b learned is (0, 5)."""
        model = taught({"program": {**PROMPT, "template": "{prompt:1} {text} it was{answer}"}, "mapping": VERBALIZER})
        begun = started(model, "a", 4)["program.0.slots"]
        learned = {"a": torch.zeros_like(begun), "b": torch.zeros_like(begun)}
        learned["a"][0, 0], learned["b"][0, 1] = 2.0, 5.0
        for name, tau in learned.items():
            model.base_model.state(name)["program.0.slots"].data.copy_(begun + tau)
        for weights, expected in {
            (1.0, 1.0): (2, 5),
            (0.5, 0.5): (1, 2.5),
            (-1, 0.0): (-2, 0),
            (2, -1): (4, -5),
        }.items():
            model.add_weighted_adapter(["a", "b"], list(weights), "made")
            found = slots(model, "made") - begun
            torch.testing.assert_close(found[0, :2], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)
            assert found[0, 2:].abs().max() < 1e-6
            model.delete_adapter("made")

    def test_twice_negated_is_the_program_again(self) -> None:
        model = taught(KINDS["prompt"])
        model.add_weighted_adapter(["a"], [-1.0], "unlearned")
        assert (slots(model, "unlearned") - slots(model, "a")).abs().max() > 0.05
        model.add_weighted_adapter(["unlearned"], [-1.0], "again")
        torch.testing.assert_close(slots(model, "again"), slots(model, "a"), atol=1e-6, rtol=0)

    def test_weights_that_sum_to_one_need_no_start(self) -> None:
        model = taught(KINDS["prompt"])
        for name in ("a", "b"):
            model.peft_config[name].training = None
        model.add_weighted_adapter(["a", "b"], [0.25, 0.75], "between")
        torch.testing.assert_close(slots(model, "between"), 0.25 * slots(model, "a") + 0.75 * slots(model, "b"))
        with pytest.raises(UsageError, match="seed: 'a' does not say the seed.*do not sum to 1.*seed=0"):
            model.add_weighted_adapter(["a", "b"], [1, 1], "sum")
        model.add_weighted_adapter(["a", "b"], [1, 1], "sum", seed=4)
        expected = slots(model, "a") + slots(model, "b") - started(model, "a", 4)["program.0.slots"]
        torch.testing.assert_close(slots(model, "sum"), expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("kind", ["residual", "low-rank"])
    def test_reparametrised_programs_are_combined_as_the_vectors_that_they_make(self, kind: str) -> None:
        """A mean of two networks is no network of the mean."""
        model = taught(MORE_KINDS[kind])
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
        a, b = (model.base_model.sites()[0].entries[name][0].units() for name in ("a", "b"))
        torch.testing.assert_close(slots(model, "mean"), (a + b) / 2)
        assert model.peft_config["mean"].program.parametrisation == "free"

    def test_mappings_that_learned_are_combined_too(self) -> None:
        for kind in ("gradient", "ridge"):
            model = taught(KINDS[kind])
            model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
            states = [model.base_model.state(name) for name in ("a", "b", "mean")]
            floats = [key for key, t in states[0].items() if key.startswith("mapping") and t.is_floating_point()]
            assert floats
            for key in floats:
                torch.testing.assert_close(states[2][key], (states[0][key] + states[1][key]) / 2)
            assert not model.base_model.sites()[1].entries["mean"].needs_fit

    def test_the_new_program_is_an_ordinary_one(self, tmp_path: Path) -> None:
        """It is not made active, trains once it is, is saved and loaded."""
        model = taught(KINDS["prompt"])
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
        assert model.active_name() == "a" and not model.base_model.state("mean")["program.0.slots"].requires_grad
        assert model.peft_config["mean"].training == {"seed": 4, "weights": {"a": 0.5, "b": 0.5}}
        model.set_adapter("mean")
        expected = logits_of(model, ROWS)
        model.save_pretrained(tmp_path, selected_adapters=["mean"])
        again = ReprogramModel.from_pretrained(tiny("llama")[0], tmp_path, processing_class=model.processing_class)
        assert torch.equal(logits_of(again, ROWS), expected)
        model.train()
        model(**model.collator()(ROWS)).loss.backward()
        assert model.active_programs()[0].slots.grad.abs().sum() > 0

    def test_a_program_saved_before_layers_were_counted(self) -> None:
        model = taught(KINDS["prompt"])
        del model.peft_config["b"].fingerprint["layers"]
        model.add_weighted_adapter(["a", "b"], [np.float32(0.5), 0.5], "mean")
        assert model.peft_config["mean"].training["weights"] == {"a": 0.5, "b": 0.5}

    def test_a_mean_lies_between(self) -> None:
        model = taught(KINDS["prompt"])
        model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
        rows = [{"text": ROWS[0]["text"], "adapter": name} for name in ("a", "b", "mean")]
        scores = model.score(rows)
        assert len({tuple(row) for row in scores.tolist()}) == 3


def _other(**changes: Any) -> dict[str, Any]:
    return {**KINDS["prompt"], **changes}


DIFFER: dict[str, tuple[dict[str, Any], str]] = {
    "layout": (
        prompt("{prompt:3} {text} {prompt:2} is{answer}"),
        r"PromptConfig\.template: '.*it was.*' of 'a', '.* is.*' of 'b'\. Expected programs of one base",
    ),
    "type": (
        _other(program={"type": "none", "template": "{text} it was{answer}"}),
        r"ReprogramConfig\.program: \['prompt'\] of 'a', \['none'\] of 'b'",
    ),
    "start": (prompt(init_text="a good film"), r"PromptConfig\.init_text: None of 'a', 'a good film' of 'b'"),
    "mapping": (
        _other(mapping={"type": "linear", "on": "state"}, labels=["negative", "positive"]),
        r"VerbalizerConfig\.type: 'verbalizer' of 'a', None of 'b'",
    ),
    "words": (_other(mapping={**VERBALIZER, "words": {"negative": [" poor"], "positive": [" good"]}}), "words"),
    "labels": (_other(labels=["positive", "negative"]), r"ReprogramConfig\.labels: \['negative', 'positive'\] of 'a'"),
}


class TestRefused:
    @pytest.mark.parametrize(("kind", "says"), DIFFER.values(), ids=DIFFER)
    def test_programs_that_differ_name_the_field(self, kind: dict[str, Any], says: str) -> None:
        model = taught(KINDS["prompt"], names=("a",), seeds=(4,))
        model.add_adapter("b", ReprogramConfig(**kind), seed=4)
        with nothing_changes(model), pytest.raises(ConfigError, match=says):
            model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")
        assert sorted(model.peft_config) == ["a", "b"]

    @pytest.mark.parametrize("weights", [[1.0, 1.0], [0.5, 0.5]])
    def test_programs_of_different_starts(self, weights: list[float]) -> None:
        model = taught(KINDS["prompt"], seeds=(4, 5))
        with pytest.raises(ConfigError, match=r"start: program\.0\.slots of 'a' \(seed 4\) and of 'b' \(seed 5\)"):
            model.add_weighted_adapter(["a", "b"], weights, "sum")

    def test_seeds_that_begin_alike_are_one_start(self) -> None:
        """Words to start from leave nothing to chance."""
        model = taught(prompt(init_text="a good film"), seeds=(4, 5))
        model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum")

    def test_programs_of_different_bases(self, tmp_path: Path) -> None:
        """One of another base is not even loaded; one whose fingerprint says another is not combined."""
        model = taught(KINDS["prompt"])
        other = get_reprogram_model(
            tiny("llama", seed=1)[0], ReprogramConfig(**KINDS["prompt"]), model.processing_class
        )
        other.save_pretrained(tmp_path)
        with pytest.raises(ArtefactError, match="made for a base with other weights"):
            model.load_adapter(tmp_path, "c")
        model.peft_config["b"].fingerprint = {**model.peft_config["b"].fingerprint, "weights": "xxh3_128:0"}
        with pytest.raises(
            ConfigError, match=r"ReprogramConfig\.fingerprint\['weights'\]: 'xxh3_.*of 'a', 'xxh3_128:0'"
        ):
            model.add_weighted_adapter(["a", "b"], [0.5, 0.5], "mean")

    @pytest.mark.parametrize(
        ("given", "error", "says"),
        [
            ((["a", "c"], [1, 1], "d"), UsageError, r"adapters\[1\]: unknown program 'c'.*Known: 'a', 'b'"),
            (("a", [1], "d"), ConfigError, "adapters: 'a'. Expected a list of names"),
            (([], [], "d"), ConfigError, r"adapters: \[\]"),
            ((["a", "a"], [1, 1], "d"), ConfigError, "stands twice"),
            ((["a", "b"], [1], "d"), ConfigError, r"weights: \[1\] for \['a', 'b'\]. Expected one number for each"),
            ((["a", "b"], 1, "d"), ConfigError, "weights: 1 for"),
            ((["a", "b"], [1, float("nan")], "d"), ConfigError, r"weights\[1\]: nan. Expected a finite number"),
            ((["a", "b"], [1, "1"], "d"), ConfigError, r"weights\[1\]: '1'"),
            ((["a", "b"], [1, 1], "a"), ConfigError, "adapter_name: 'a' exists"),
            ((["a", "b"], [1, 1], "d.e"), ConfigError, "adapter_name: 'd.e'. Expected letters"),
            ((["a", "b"], [1, 1], "d", "svd"), ConfigError, "combination_type: 'svd'.*vectors.*Expected 'linear'"),
        ],
    )
    def test_arguments(self, given: tuple, error: type[Exception], says: str) -> None:
        model = taught(KINDS["prompt"])
        with nothing_changes(model), pytest.raises(error, match=says):
            model.add_weighted_adapter(*given)


def test_the_methods_have_the_signature_and_the_help_of_their_functions() -> None:
    """They are loaded when they are first asked for: the room stands below the model's."""
    assert [*inspect.signature(ReprogramModel.add_weighted_adapter).parameters][:4] == [
        "model", "adapters", "weights", "adapter_name",
    ]  # fmt: skip
    model = taught(KINDS["prompt"], names=("a",), seeds=(4,))
    assert [*inspect.signature(model.fold).parameters] == ["adapter_name", "into"]
    assert "plain form" in model.fold.__doc__
