"""An instruction into slots: what teacher and student read, what is compared, and that it is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.data.text import LaidOut
from hf_reprogram.errors import BaseModelError, ConfigError, ReprogramError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import ROWS, build, flags, program_config, state_hash, tiny
from hf_reprogram.tools import distill as tool
from hf_reprogram.tools.arithmetic import started
from tests.artefact_kit import VERBALIZER, nothing_changes


INSTRUCTION = "this is a review of the film and the overall sentiment it is either good or bad"  # 17 tokens
TEXTS = [row["text"] for row in ROWS]


def student(
    family: str = "llama", template: str = "{prompt:3} {text} it was{answer}", **options: Any
) -> ReprogramModel:
    """A tiny base with one group of slots and label words."""
    base, tokenizer = tiny(family)
    program = {"type": "prompt", "template": template, **options}
    return get_reprogram_model(base, ReprogramConfig(program=program, mapping=VERBALIZER), tokenizer)


def laid(model: ReprogramModel, texts: list[str] = TEXTS) -> tuple[tool.Lesson, list[LaidOut]]:
    """The lesson and its rows."""
    lesson = tool.lesson_of(model, INSTRUCTION)
    return lesson, lesson.collator.lay_out([{"text": text} for text in texts])


class TestRows:
    def test_teacher_and_student_differ_in_the_instruction_alone(self) -> None:
        """The teacher's ids are those of the plain tokenizer on the plain text."""
        model = student()
        lesson, made = laid(model, ["so good"])
        columns, counts = lesson.columns(made, taught=False)
        plain = model.processing_class(INSTRUCTION + " so good it was")["input_ids"]
        assert columns["input_ids"][0].tolist() == plain
        assert counts[0].tolist() == [False] * 18 + [True] * 4  # <s> and the instruction, then so good it was
        assert (columns["slot_index"] == -1).all()
        columns, counts = lesson.columns(made, taught=True)
        assert columns["slot_index"][0].tolist() == [-1, 0, 1, 2, -1, -1, -1, -1]
        assert columns["input_ids"][0, 4:].tolist() == plain[-4:]
        assert counts[0].tolist() == [False] * 4 + [True] * 4

    def test_both_are_cut_alike(self) -> None:
        """64 positions: a long text loses its end as the teacher reads it, and so does the student's."""
        lesson, made = laid(student(), ["so good " * 40, "good"])
        teacher, long = lesson.columns(made, taught=False)
        pupil, short = lesson.columns(made, taught=True)
        assert teacher["input_ids"].shape[1] == 64 and pupil["input_ids"].shape[1] == 64 - 17 + 3
        assert long.sum(1).tolist() == short.sum(1).tolist() == [46, 3]
        assert torch.equal(teacher["input_ids"][long], pupil["input_ids"][short])

    def test_where_nothing_comes_after_the_slots_the_last_one_counts(self) -> None:
        lesson, made = laid(student(template="{text} {prompt:3}{answer}"), ["so good"])
        for taught in (True, False):
            assert lesson.columns(made, taught)[1][0].nonzero().flatten().tolist() == [5 if taught else 19]

    @pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
    def test_a_student_with_the_instructions_own_vectors_is_the_teacher(self, family: str) -> None:
        """As many slots as tokens, each with its token's vector: no divergence, whatever stands beside a row."""
        model = student(family, "{prompt:17} {text} it was{answer}", init_text=INSTRUCTION)
        lesson = tool.lesson_of(student(family), INSTRUCTION)
        lesson.slots = 17
        made = lesson.collator.lay_out([{"text": text} for text in TEXTS])
        found = tool.measures(model, lesson, made, batch_size=4)
        assert found["agreement"] == found["agreement_last"] == 1.0
        assert abs(found["kl"]) < 1e-5 and abs(found["kl_last"]) < 1e-5


class TestDivergence:
    def _states(self) -> tuple[Any, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        pair = [torch.randn(10, 32, generator=generator) for _ in range(2)]
        return student("gemma2").backbone.head, *pair

    def test_is_torchs_own_by_pieces_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        head, ours, theirs = self._states()
        logits = [head.logits(head.transform(states), None).log_softmax(-1) for states in (ours, theirs)]
        expected = torch.nn.functional.kl_div(*logits, reduction="none", log_target=True).sum(-1)
        gradients = []
        for piece in (tool.PIECE, 3 * head.size):
            monkeypatch.setattr(tool, "PIECE", piece)
            leaf = ours.clone().requires_grad_()
            found = tool.divergence(head, leaf, theirs)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            found.sum().backward()
            gradients.append(leaf.grad)
        torch.testing.assert_close(*gradients)

    def test_no_more_of_the_vocabulary_exists_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = student()
        size, seen = model.backbone.head.size, []
        monkeypatch.setattr(tool, "PIECE", 4 * size)

        class Look(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                found = out if isinstance(out, list | tuple) else [out]
                tensors = [t for t in found if isinstance(t, torch.Tensor) and t.ndim and t.shape[-1] == size]
                # (32, vocabulary) is the matrix itself, turned for its product.
                seen.extend(t.numel() // size for t in tensors if t.shape != (32, size))
                return out

        lesson, made = laid(model)
        with Look():
            ours, theirs, _ = tool._both(model, lesson, made)
            tool.divergence(model.backbone.head, ours, theirs).sum().backward()
            tool.measures(model, lesson, made)
        assert len(ours) > 20 and max(seen) == 4


class TestLearning:
    @pytest.mark.parametrize("options", [{}, {"parametrisation": "residual", "bottleneck": 8}])
    def test_the_distance_to_the_teacher_shrinks_and_the_base_stays(self, options: dict[str, Any]) -> None:
        model = student(**options)
        base = model.backbone.base
        before, offset = (state_hash(base), flags(base)), model.active_mapping().state_dict()
        found = model.distill(INSTRUCTION, TEXTS, steps=60, held_out=TEXTS, progress=False)
        assert found["kl"] < 0.5 * found["kl_at_start"] and found["kl_last"] < 0.5 * found["kl_last_at_start"]
        assert found["agreement"] > found["agreement_at_start"]
        assert (found["tokens"], found["slots"], found["n"]) == (17, 3, 6)
        assert (state_hash(base), flags(base)) == before and not model.training
        assert all(torch.equal(t, offset[key]) for key, t in model.active_mapping().state_dict().items())
        assert all(p.grad is None for p in model.parameters())

    def test_labels_are_not_looked_at(self) -> None:
        states = []
        for rows in (ROWS, [{"text": text} for text in TEXTS], TEXTS):
            model = student()
            model.distill(INSTRUCTION, rows, steps=2, progress=False)
            states.append(model.base_model.state("default")["program.0.slots"].detach().clone())
        assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])

    def test_a_seed_decides_which_rows_teach(self) -> None:
        states = []
        for seed in (0, 0, 1):
            model = student()
            model.distill(INSTRUCTION, TEXTS, steps=2, seed=seed, progress=False)
            states.append(model.base_model.state("default")["program.0.slots"].detach().clone())
        assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])

    def test_it_begins_at_the_instructions_first_tokens_and_the_config_says_so(self) -> None:
        model = student(init="normal")
        model.distill(INSTRUCTION, TEXTS, steps=1, progress=False)
        config = model.peft_config["default"]
        assert config.program.init_text == INSTRUCTION and config.training["distilled"]["steps"] == 1
        first = model.processing_class(INSTRUCTION, add_special_tokens=False)["input_ids"][:3]
        begun = started(model, "default", config.training["seed"])["program.0.slots"] * config.embedding_rms
        torch.testing.assert_close(begun, model.backbone.vectors(first))
        assert ReprogramConfig.from_dict(config.to_dict()) == config

    def test_it_goes_on_from_where_it_was(self) -> None:
        model = student()
        first = model.distill(INSTRUCTION, TEXTS, steps=30, held_out=TEXTS, progress=False)
        again = model.distill(INSTRUCTION, TEXTS, steps=1, held_out=TEXTS, restart=False, progress=False)
        assert again["kl_at_start"] == pytest.approx(first["kl"], abs=1e-6)
        anew = model.distill(INSTRUCTION, TEXTS, steps=1, held_out=TEXTS, progress=False)
        assert anew["kl_at_start"] == pytest.approx(first["kl_at_start"], abs=1e-6)

    def test_only_the_active_program_learns(self) -> None:
        model = student()
        model.add_adapter("other", ReprogramConfig(program="prompt", mapping=VERBALIZER))
        other = {key: t.clone() for key, t in model.base_model.state("other").items()}
        model.distill(INSTRUCTION, TEXTS, steps=2, progress=False)
        assert all(torch.equal(t, other[key]) for key, t in model.base_model.state("other").items())

    def test_rows_of_another_program_are_refused(self) -> None:
        model = student()
        model.add_adapter("other", ReprogramConfig(program="prompt", mapping=VERBALIZER))
        with pytest.raises(UsageError, match=r"rows\[1\]\['adapter'\]: 'other', and the active program is 'default'"):
            model.distill(INSTRUCTION, [TEXTS[0], {"text": TEXTS[1], "adapter": "other"}], steps=1)

    def test_a_program_without_mapping_writes_as_told(self) -> None:
        """No labels, no label words: what is learned is how the base goes on."""
        base, tokenizer = tiny("llama")
        config = ReprogramConfig(program={"type": "prompt", "template": "{prompt:3} {text}"})
        model = get_reprogram_model(base, config, tokenizer)
        found = model.distill(INSTRUCTION, TEXTS, steps=60, held_out=TEXTS, progress=False)
        assert found["kl"] < 0.5 * found["kl_at_start"]
        assert model.generate(TEXTS[:2], max_new_tokens=2, do_sample=False).shape == (2, 2)


def _frozen() -> ReprogramModel:
    model = student()
    model.base_model.set_requires_grad("default", False)
    return model


REFUSED: dict[str, tuple[Any, dict[str, Any], type[ReprogramError], str]] = {
    "longer than the context": (
        student, {"instruction": "good " * 70}, ConfigError,
        r"distill\(instruction\): 70 tokens leave no room for text in the base's 64 positions",
    ),
    "short": (student, {"instruction": "so good film"}, ConfigError, r"3 tokens, for 3 slots.*save nothing"),
    "empty": (student, {"instruction": " "}, ConfigError, r"distill\(instruction\): ' '\. Expected a text"),
    "no text": (student, {"instruction": 7}, ConfigError, r"distill\(instruction\): 7\. Expected a text"),
    "two groups": (
        lambda: student(template="{a:2} {text} {b:2} it was{answer}"), {}, ConfigError,
        "2 groups of slots in the template. Expected one",
    ),
    "no slots": (
        lambda: build(ReprogramConfig(program="none"), "llama"), {}, ConfigError, r"\['none'\] has no slots",
    ),
    "seq2seq": (
        lambda: build(program_config("prompt", "t5"), "t5"), {}, BaseModelError, "T5ForConditionalGeneration predict",
    ),
    "masked": (
        lambda: build(program_config("prompt", "bert"), "bert"), {}, BaseModelError, "AutoModelForCausalLM",
    ),
    "frozen": (_frozen, {}, UsageError, "'default' does not train.*is_trainable=True"),
    "steps": (student, {"steps": 0}, UsageError, r"distill\(steps\): 0"),
    "rate below 0": (student, {"learning_rate": -1.0}, UsageError, r"distill\(learning_rate\): -1\.0\."),
    "rate 0": (student, {"learning_rate": 0}, UsageError, r"distill\(learning_rate\): 0\. Expected .* or None"),
    "a rate that is none": (student, {"learning_rate": "a"}, UsageError, r"distill\(learning_rate\): 'a'"),
    "one row": (student, {"rows": ["so good"]}, UsageError, r"distill\(rows\): 1 row"),
    "a bad row": (student, {"rows": ["so good", 7]}, ReprogramError, r"rows\[1\]"),
}  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize(("make", "changes", "error", "says"), REFUSED.values(), ids=REFUSED)
    def test_and_nothing_has_changed(self, make: Any, changes: dict, error: type[Exception], says: str) -> None:
        model = make()
        given = {"instruction": INSTRUCTION, "rows": TEXTS, "progress": False, **changes}
        with nothing_changes(model), pytest.raises(error, match=says):
            model.distill(**given)

    def test_a_disabled_program(self) -> None:
        model = student()
        with model.disable_adapter(), pytest.raises(UsageError, match="the program is disabled"):
            model.distill(INSTRUCTION, TEXTS)
