"""What users of neighbouring tools ask for, and what we do about it (what-users-ask.md, §1-15 and silence).

A letter counts the promises of a section ("We do: (a) ... (b) ..."), in their order.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_reprogram.config import ReprogramConfig
from hf_reprogram.errors import UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, build, mapping_config, program_config, tiny
from tests.artefact_kit import prompt, words
from tests.traps.accounts import ROOT, check_accounts, numbers_of_tests


PROMISES = {
    "01": "abcde", "02": "abcdefg", "03": "ab", "04": "abc", "05": "ab", "06": "ab", "07": "ab", "08": "abc",
    "09": "ab", "10": "abcd", "11": "a", "12": "ab", "13": "ab", "14": "a", "15": "a", "16": "a",
}  # fmt: skip
ELSEWHERE = {
    "01b": "tests/test_bad_states.py::U§1",
    "01c": "tests/training/test_job.py::test_it_warns_where_it_must",
    "01d": "tests/training/test_trainer.py::test_gradient_and_way_are_logged",
    "02a": "hf_reprogram/testing/checks.py::def padding_changes_nothing",
    "02d": "hf_reprogram/testing/checks.py::def saves_and_loads",  # bit-equal, the mapping with it
    "02e": "tests/test_artefact.py::class TestForAnotherBase",
    "02f": 'tests/test_bad_calls.py::"an unknown program"',
    "02g": "tests/traps/test_language_models.py::test_t02_07_",
    "03b": "tests/backbone/test_text.py::test_a_row_beside_longer_ones_gets_the_same_tokens",
    "04a": "tests/programs/test_parametrisations.py::test_the_trainable_form_is_what_is_saved_and_goes_on",
    "04b": "tests/training/test_trainer.py::test_resumed_is_uninterrupted",
    "05a": "tests/traps/test_peft_and_transformers.py::test_e0_22_",
    "06a": "tests/traps/test_language_models.py::test_t02_06_",  # a path names the embedding, never its shape
    "06b": "tests/training/test_ranks.py::test_there_are_two_ranks",
    "07a": "tests/traps/test_peft_and_transformers.py::test_e0_08_",
    "08a": "tests/test_performance.py::test_eight_programs_take_one_pass",
    "08b": "tests/test_performance.py::test_loading_touches_nothing_of_the_base",
    "09a": "tests/test_pipelines.py::test_nobody_calls_it_unsupported",
    "09b": "tests/test_card.py::test_its_snippet_runs",
    "10b": 'tests/test_bad_input.py::"a first token that two classes share"',
    "10c": "tests/mappings/test_continuations.py::test_the_score_of_a_word_is_its_probability",
    "10d": "tests/programs/test_prompt.py::test_a_far_slot_says_so",
    "12a": "tests/hub_cases.py::U§12",
    "12b": "tests/programs/test_prompt.py::test_words_one_text_per_group",
    "13a": "tests/scripts/test_speed.py::test_finish_writes_rows_and_where_they_come_from",
    "13b": "tests/tools/test_random_source.py::test_random_source_keeps_mean_and_deviation_of_every_tensor",
    "14a": "tests/e2e/test_outside_package.py::test_another_process_loads_it_and_checks_it",
    "16a": "tests/test_tuner.py::(U, silence)",
}
NOT_OURS = {
    "08c": "an export of prompt vectors for vLLM is a tool of a later issue",
    "11a": "sound: a later issue",
    "15a": "`select` is a tool of a later issue",
}


def test_u_every_promise_is_accounted_for() -> None:
    numbers = [section + letter for section, letters in PROMISES.items() for letter in letters]
    check_accounts(numbers, numbers_of_tests(globals(), "test_u"), ELSEWHERE, NOT_OURS)


def test_u01a_a_prompt_starts_among_real_embeddings() -> None:
    """PEFT's default N(0, 1) lies far off them: 5.7 against 34.3 % (method_comparison/MetaMathQA)."""
    model = build(program_config("prompt"), "llama")
    table = model.backbone.vectors(range(model.backbone.vocab_size))
    distance = torch.cdist(model.active_programs()[0].vectors(), table).min(1).values
    assert model.active_programs()[0].options.init == "auto" and distance.max() < 1e-2


def test_u01e_the_readme_says_when_not_to_use_it() -> None:
    section = (ROOT / "README.md").read_text().partition("## When not to use it")[2].partition("\n## ")[0]
    assert all(word in section for word in ("TF-IDF", "LoRA", "random"))


@pytest.mark.parametrize("family", ["bert-classifier", "albert-classifier", "roberta-classifier", "bert-encoder"])
def test_u02b_the_pooled_position_is_no_slot(family: str) -> None:
    """PEFT puts virtual tokens before [CLS], and the pooler reads the first of them."""
    first = ReprogramConfig(
        program={"type": "prompt", "template": "{prompt:3} {text}"},
        mapping={"type": "linear", "on": "state", "pool": "first", "solver": "gradient"},
        labels=LABELS,
    )
    model = build(first, family)
    columns = model.collator()(ROWS)
    assert (columns["input_ids"][:, 0] == model.processing_class.bos_token_id).all()
    assert columns["slot_index"][0, :4].tolist() == [-1, 0, 1, 2]
    batch = model.reprogrammed.program(model.reprogrammed.batch(**{k: columns[k] for k in _INPUTS}), model.backbone)
    with torch.no_grad():
        states, _ = model.backbone.states(batch)
        read = model.reprogrammed.readout({k: columns[k] for k in _INPUTS}, model.active_mapping().reading())
    torch.testing.assert_close(read, states[:, 0])


_INPUTS = ("input_ids", "attention_mask", "slot_index")


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_u02c_logits_are_one_row_of_labels_for_each_row(family: str) -> None:
    """PEFT's have k positions more than the caller's labels."""
    model = build(program_config("prompt", family), family)
    assert model(**model.collator()(ROWS)).logits.shape == (len(ROWS), len(LABELS))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_u03a_greedy_writing_is_a_loop_by_hand_on_seq2seq(family: str) -> None:
    """No cache of ours to fall behind transformers' own: the decoder's steps, one after the other."""
    base, tokenizer = tiny(family)
    config = ReprogramConfig(program={"type": "prompt", "template": "{prompt:3} {text}"})
    model = get_reprogram_model(base, config, tokenizer)
    text = [{"text": ROWS[2]["text"]}]
    found = model.generate(text, max_new_tokens=4, do_sample=False, num_beams=1)[0].tolist()
    batch = model.reprogrammed.program(model.reprogrammed.batch(**model.collator()(text)), model.backbone)
    written = [base.config.decoder_start_token_id]
    with torch.no_grad():
        for _ in range(4):
            steps = torch.tensor([written])
            logits = base(
                inputs_embeds=batch.embeds, attention_mask=batch.attention_mask, decoder_input_ids=steps
            ).logits
            written.append(int(logits[0, -1].argmax()))
            if written[-1] == base.generation_config.eos_token_id:
                break
    start = len(found) - len(written) + 1
    assert found[max(start, 0) :] == written[1:] or found == written


def test_u05b_metrics_appear_in_a_plain_trainer(tmp_path: Path) -> None:
    """With `compute_metrics` and no further argument: elsewhere eval_loss is missing and metrics are never called."""
    model = build(program_config("prompt"), "llama")
    arguments = TrainingArguments(str(tmp_path), remove_unused_columns=False, use_cpu=True, report_to=[])
    share = lambda found: {"share": float((found.predictions.argmax(1) == found.label_ids).mean())}  # noqa: E731
    trainer = Trainer(model, arguments, model.collator(), eval_dataset=ROWS, compute_metrics=share)
    found = trainer.evaluate()
    assert found["eval_share"] == pytest.approx(model.evaluate(ROWS)["accuracy"])
    assert found["eval_loss"] == pytest.approx(model.evaluate(ROWS)["loss"], abs=1e-5)


def test_u07b_nothing_asks_for_the_dtype_of_a_linear_layers_weight() -> None:
    """That of a quantised layer is uint8."""
    for path in sorted((ROOT / "hf_reprogram").rglob("*.py")):
        for line in re.findall(r".*\bweight\.dtype\b.*", path.read_text()):
            assert "output.weight.dtype" in line and path.name == "heads.py", f"{path}: {line}"
    # The one place asks `is_floating_point()` of it first.
    assert "output.weight.is_floating_point()" in (ROOT / "hf_reprogram/backbone/heads.py").read_text()


GLUED = {
    "words of one token": ("llama", "{prompt:3} {text} it was{answer}", "good", "' it wasgood'"),
    "right after the text": ("gpt2", "{prompt:3} {text}{answer}", "good", r"'\{text\}good'"),
    "a space in the template is none": ("llama", "{prompt:3} {text} it was {answer}", "good", "' it wasgood'"),
    "after a colon": ("llama", "{prompt:3} {text} sentiment:{answer}", "good", "' sentiment:good'"),
}
FINE = {
    "with its space": ("llama", "{prompt:3} {text} it was{answer}", " good"),
    "on a new line": ("llama", "{prompt:3} {text}\n{answer}", "good"),
    "after a slot": ("llama", "{text} {prompt:3}{answer}", "good"),
    "no other token for it": ("bert", "{prompt:3} {text} it was{answer}", "good"),
    "a tokenizer that sets the space itself": ("t5", "{prompt:3} {text} it was{answer}", "good"),
    "the first word of a decoder": ("bart", "{prompt:3} {text} it was{answer}", "good"),
    "a mark": ("llama", "{prompt:3} {text}{answer}", "."),
}


def _words(family: str, template: str, word: str) -> None:
    values = {**words({"negative": [" bad"], "positive": [word]}), "program": prompt(template)["program"]}
    base, tokenizer = tiny(family)
    get_reprogram_model(base, ReprogramConfig(**values), tokenizer)


@pytest.mark.parametrize(("family", "template", "word", "reads"), GLUED.values(), ids=GLUED)
def test_u10a_a_word_without_its_space_is_warned_of(family: str, template: str, word: str, reads: str) -> None:
    """Another token than the one that was meant, without a word from anyone (autoprompt#53)."""
    with pytest.warns(UserWarning, match=f"so that the base reads {reads}.*Fix: ' good'"):
        _words(family, template, word)


@pytest.mark.parametrize(("family", "template", "word"), FINE.values(), ids=FINE)
def test_u10a_no_word_is_warned_of_without_need(family: str, template: str, word: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _words(family, template, word)


def test_u04c_a_program_that_was_loaded_to_predict_says_that_it_does_not_train() -> None:
    """PEFT's prompt methods refuse `is_trainable=True`; ours asks for it where a loss would have no gradient."""
    model = build(mapping_config("verbalizer"), "llama")
    columns = model.collator()(ROWS)
    model.base_model.set_requires_grad("default", False)
    assert model(**columns).loss.isfinite(), "evaluation needs no gradient"
    with torch.no_grad():
        assert model.train()(**columns).loss.isfinite()
    with pytest.raises(UsageError, match="nothing trains.*is_trainable=True"):
        model(**columns)
