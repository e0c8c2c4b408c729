"""The ordinary Trainer on a reprogrammed model: counts, accumulation, checkpoints, resume, rates."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments

import hf_reprogram as hr
from hf_reprogram.artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from hf_reprogram.errors import DataError, UsageError
from hf_reprogram.model import ReprogramModel, get_reprogram_model
from hf_reprogram.testing import AUDIO_ROWS, LABELS, ROWS, build, mapping_config, program_config, state_hash, tiny
from hf_reprogram.training.trainer import make_trainer, parameter_groups
from hf_reprogram.training.watch import Watch


def _arguments(folder: Path, **options: Any) -> TrainingArguments:
    fixed = {
        "remove_unused_columns": False,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
    }
    options = {"learning_rate": 0.07, "per_device_train_batch_size": 2, "max_steps": 4, **options}
    return TrainingArguments(str(folder), **{**fixed, **options})


def _plain(model: ReprogramModel, folder: Path, rows: Any = ROWS, **options: Any) -> Trainer:
    arguments = _arguments(folder, **options)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=ROWS, data_collator=model.collator())


def _slots(model: ReprogramModel) -> torch.Tensor:
    return model.active_programs()[0].slots.detach().clone()


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_a_plain_trainer_trains_the_program_and_nothing_else(family: str, tmp_path: Path) -> None:
    model = build(program_config("prompt"), family)
    base, before = state_hash(model.backbone.base), _slots(model)
    _plain(model, tmp_path).train()
    assert state_hash(model.backbone.base) == base
    assert not torch.equal(_slots(model), before)
    assert not any(m.training for m in model.backbone.base.modules()), "the base woke up"


def test_trainer_counts_every_label(tmp_path: Path) -> None:
    """E§0 19: for a causal LM Trainer counts labels[..., 1:], one row too few in each micro-batch."""
    model = build(program_config("prompt"), "llama")
    trainer = _plain(model, tmp_path)
    batch = model.collator()(ROWS[:4])
    assert int(trainer._get_num_items_in_batch([batch, batch], torch.device("cpu"))) == 8
    assert trainer.model_accepts_loss_kwargs
    assert trainer.label_names == ["labels"]


def test_accumulation_is_the_same_step(tmp_path: Path) -> None:
    """8 rows as 1 x 8, 2 x 4 and 4 x 2, plain SGD: one set of numbers (E§0 20)."""
    rows, found = (ROWS * 2)[:8], []
    for size, times in ((8, 1), (4, 2), (2, 4)):
        model = build(program_config("prompt"), "llama")
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 1}
        _plain(model, tmp_path, rows, optim="sgd", learning_rate=0.5, max_grad_norm=0.0, **options).train()
        found.append(_slots(model))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["llama", "bert", "t5"])
def test_gradient_checkpointing_trains_the_same_program(family: str, tmp_path: Path) -> None:
    found = []
    for on in (False, True):
        model = build(program_config("prompt"), family)
        model.backbone.sharing = None  # a checkpointed base shares nothing: the same sums in another order
        _plain(model, tmp_path, activation_checkpointing=on).train()
        assert model.backbone.base.is_activation_checkpointing == on
        found.append(_slots(model))
    assert torch.equal(*found)


def test_a_checkpoint_holds_the_program_alone(tmp_path: Path) -> None:
    model = build(program_config("prompt"), "llama")
    _plain(model, tmp_path, save_strategy="steps", save_steps=2).train()
    names = {p.name for p in (tmp_path / "checkpoint-2").iterdir()}
    assert {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, "optimizer.pt", "trainer_state.json"} <= names
    assert "model.safetensors" not in names
    assert (tmp_path / "checkpoint-2" / WEIGHTS_FILE).stat().st_size < 8192


@pytest.mark.parametrize("at", [1, 2, 3])
def test_resumed_is_uninterrupted(at: int, tmp_path: Path) -> None:
    """Bit-equal on the CPU, whatever step the run was cut at (invariant 8)."""
    whole = build(program_config("prompt"), "llama")
    _plain(whole, tmp_path / "a", save_strategy="steps", save_steps=1).train()
    resumed = build(program_config("prompt"), "llama")
    _plain(resumed, tmp_path / "a").train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{at}"))
    assert torch.equal(_slots(resumed), _slots(whole))


def test_resuming_keeps_every_part(tmp_path: Path) -> None:
    """A mapping with parameters and buffers resumes with the program, through make_trainer and its estimation."""
    config = hr.ReprogramConfig(
        program={"type": "prompt", "template": "{prompt:2} {text} it was{answer}"},
        mapping=hr.LinearConfig(solver="gradient", start="ridge"),
        labels=LABELS,
    )
    states = []
    for resume in (None, "checkpoint-2"):
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, config, tokenizer)
        arguments = _arguments(tmp_path, save_strategy="steps", save_steps=1)
        make_trainer(model, arguments, ROWS).train(resume_from_checkpoint=resume and str(tmp_path / resume))
        states.append(model.base_model.state("default"))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_best_checkpoint_comes_back(tmp_path: Path) -> None:
    model = build(program_config("prompt"), "llama")
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = _plain(model, tmp_path, load_best_model_at_end=True, learning_rate=0.5, **options)
    trainer.train()
    losses = {log["step"]: log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log}
    assert trainer.state.best_global_step == min(losses, key=losses.get)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses.values()), abs=1e-6)
    assert any(p.requires_grad for p in model.parameters()), "the program no longer trains"


def test_metrics_appear_without_further_arguments(tmp_path: Path) -> None:
    """U§5: wrappers that hide their columns lose eval_loss and compute_metrics."""
    model = build(program_config("prompt"), "llama")
    metrics = make_trainer(model, _arguments(tmp_path), ROWS, ROWS).evaluate()
    assert {"eval_loss", "eval_accuracy"} <= set(metrics)
    assert metrics["eval_accuracy"] == pytest.approx(model.evaluate(ROWS)["accuracy"])
    assert metrics["eval_loss"] == pytest.approx(model.evaluate(ROWS)["loss"], abs=1e-5)


class TestDatasets:
    """Rows of a `datasets.Dataset`."""

    rows = datasets.Dataset.from_list(ROWS)

    def test_strings(self, tmp_path: Path) -> None:
        model = build(program_config("prompt"), "llama")
        _plain(model, tmp_path, self.rows).train()

    def test_class_labels_are_permuted_by_name(self, tmp_path: Path) -> None:
        """N17: [positive, negative] against [negative, positive] would be learned upside down without a word."""
        rows = self.rows.cast_column("label", datasets.ClassLabel(names=["positive", "negative"]))
        model = build(program_config("prompt"), "llama")
        trainer = make_trainer(model, _arguments(tmp_path), rows)
        labels = trainer.data_collator([rows[0], rows[1]])["labels"]
        assert labels.tolist() == [1, 0]
        trainer.train()

    def test_class_labels_that_nothing_names_are_refused(self, tmp_path: Path) -> None:
        rows = self.rows.cast_column("label", datasets.ClassLabel(names=["positive", "negative"]))
        model = build(program_config("prompt"), "llama")
        with pytest.raises(DataError, match="features=dataset.features"):
            _plain(model, tmp_path, rows).train()

    @pytest.mark.parametrize("rows", [ROWS, rows], ids=["list", "dataset"])
    def test_dropped_columns_are_an_error_that_says_so(self, rows: Any, tmp_path: Path) -> None:
        model = build(program_config("prompt"), "llama")
        with pytest.raises(UsageError, match="remove_unused_columns=False"):
            _plain(model, tmp_path, rows, remove_unused_columns=True).train()
        with pytest.raises(UsageError, match="remove_unused_columns"):
            make_trainer(model, _arguments(tmp_path, remove_unused_columns=True), rows)

    def test_workers_make_the_same_batches(self, tmp_path: Path) -> None:
        found = []
        for workers in (0, 2):
            model = build(program_config("prompt"), "llama")
            _plain(model, tmp_path, self.rows, dataloader_num_workers=workers).train()
            found.append(_slots(model))
        assert torch.equal(*found)


class TestRates:
    """One rate per part; one that cannot teach is said to be so."""

    @pytest.mark.parametrize(("rate", "warned"), [(5e-5, True), (1e-4, True), (0.07, False)])
    def test_a_rate_too_low_for_slots(self, rate: float, warned: bool, tmp_path: Path) -> None:
        model = build(program_config("prompt"), "llama")
        trainer = _plain(model, tmp_path, learning_rate=rate, max_steps=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.train()
        ours = [str(w.message) for w in caught if "model.learning_rate is 0.07" in str(w.message)]
        assert len(ours) == int(warned)

    def test_each_part_has_its_own(self, tmp_path: Path) -> None:
        model = build(mapping_config("linear"), "llama")
        assert model.learning_rates() == {"program.0": 0.07, "mapping": 1e-3}
        assert model.learning_rate == 0.07
        groups = parameter_groups(model, _arguments(tmp_path, learning_rate=5e-5))
        assert [(g["name"], g["lr"]) for g in groups] == [("program.0", 0.07), ("mapping", 1e-3)]
        assert [g["lr"] for g in parameter_groups(model, _arguments(tmp_path, learning_rate=0.02))] == [0.02, 0.02]

    def test_a_model_without_anything_to_train(self, tmp_path: Path) -> None:
        config = hr.ReprogramConfig(
            program={"type": "none", "template": "{text}{answer}"}, mapping="linear", labels=LABELS
        )
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, config, tokenizer)
        with pytest.raises(UsageError, match="nothing trains"):
            make_trainer(model, _arguments(tmp_path), ROWS)


class TestMatrix:
    """What else a user of Trainer sets: each of these has broken some wrapper of somebody's."""

    def test_every_column_is_named_in_forward(self, tmp_path: Path) -> None:
        """E§0 22: what arrives through **kwargs, Trainer drops."""
        model = build(program_config("prompt"), "llama")
        trainer = _plain(model, tmp_path)
        trainer._set_signature_columns_if_needed()
        assert set(model.collator()(ROWS)) <= set(trainer._signature_columns)

    @pytest.mark.parametrize("at", [3, 5])
    @pytest.mark.parametrize(
        "make", [_plain, lambda model, folder, **o: make_trainer(model, _arguments(folder, **o), ROWS)]
    )
    def test_resumed_in_a_later_epoch_is_uninterrupted(self, make: Any, at: int, tmp_path: Path) -> None:
        """Three steps an epoch, cut at its end and in the midst of the second. transformers' own
        sampler by length draws its order from the global random state, which a resumed run has not."""
        whole = build(program_config("prompt"), "llama")
        make(whole, tmp_path, max_steps=7, save_strategy="steps", save_steps=1).train()
        resumed = build(program_config("prompt"), "llama")
        make(resumed, tmp_path, max_steps=7).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert torch.equal(_slots(resumed), _slots(whole))

    def test_the_best_epoch_comes_back_by_accuracy(self, tmp_path: Path) -> None:
        """U§4: peft#2256, transformers#35087."""
        model = build(program_config("prompt"), "llama")
        options = {
            "eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "max_steps": -1,
            "num_train_epochs": 4, "metric_for_best_model": "accuracy", "learning_rate": 0.5,
        }  # fmt: skip
        trainer = make_trainer(model, _arguments(tmp_path, **options), ROWS, ROWS)
        trainer.train()
        found = [log["eval_accuracy"] for log in trainer.state.log_history if "eval_accuracy" in log]
        assert len(found) == 4 and model.evaluate(ROWS)["accuracy"] == max(found)

    def test_label_smoothing_is_the_same_step_however_it_is_accumulated(self, tmp_path: Path) -> None:
        """Trainer's smoother takes the place of our loss: it must count as that does."""
        rows, found = (ROWS * 2)[:8], []
        for size, times, smooth in ((8, 1, 0.1), (2, 4, 0.1), (8, 1, 0.0)):
            model = build(program_config("prompt"), "llama")
            options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 1}
            arguments = _arguments(tmp_path, optim="sgd", max_grad_norm=0.0, label_smoothing_factor=smooth, **options)
            make_trainer(model, arguments, rows).train()
            found.append(_slots(model))
        torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
        assert (found[2] - found[0]).abs().max() > 1e-5

    def test_group_by_length_is_what_it_does_anyway(self, tmp_path: Path) -> None:
        """Trainer's own looks for token ids in the rows, which are still text."""
        found = []
        for strategy in ("random", "group_by_length"):
            model = build(program_config("prompt"), "llama")
            make_trainer(model, _arguments(tmp_path, train_sampling_strategy=strategy), ROWS).train()
            found.append(_slots(model))
        assert torch.equal(*found)

    @pytest.mark.parametrize("options", [{"bf16": True}, {"optim": "adafactor"}, {"weight_decay": 0.1}], ids=str)
    def test_it_trains_with(self, options: dict[str, Any], tmp_path: Path) -> None:
        model = build(mapping_config("linear"), "llama")
        before = model.base_model.state("default")
        before = {name: tensor.clone() for name, tensor in before.items()}
        make_trainer(model, _arguments(tmp_path, **options), ROWS, ROWS).train()
        for name, tensor in model.base_model.state("default").items():
            assert tensor.dtype == torch.float32 and tensor.isfinite().all()
            assert not torch.equal(tensor, before[name]), f"{name} did not move"

    def test_one_program_uses_all_its_parameters(self, tmp_path: Path) -> None:
        """Trainer has DDP look for unused parameters in whatever is no PreTrainedModel: a walk in every step."""
        model = build(program_config("prompt"), "llama")
        assert make_trainer(model, _arguments(tmp_path), ROWS).args.ddp_find_unused_parameters is False
        chosen = _arguments(tmp_path, ddp_find_unused_parameters=True)
        assert make_trainer(model, chosen, ROWS).args.ddp_find_unused_parameters is True
        model.add_adapter("other", program_config("prompt"))  # a rank may see rows of one of them only (N23)
        assert make_trainer(model, _arguments(tmp_path), ROWS).args.ddp_find_unused_parameters is None

    def test_no_optimizer_is_handed_over(self, tmp_path: Path) -> None:
        """Trainer refuses one under FSDP; the groups are made when it asks."""
        trainer = make_trainer(build(mapping_config("linear"), "llama"), _arguments(tmp_path), ROWS)
        assert trainer.optimizer is None
        trainer.train()
        assert [group["name"] for group in trainer.optimizer.optimizer.param_groups] == ["program.0", "mapping"]

    def test_targets_that_are_no_number(self, tmp_path: Path) -> None:
        rows = [*ROWS[:3], {"text": "so good", "label": float("nan")}]
        with pytest.raises(DataError, match=r"rows\[3\]\['label'\]: nan is neither a label's name nor its id"):
            make_trainer(build(program_config("prompt"), "llama"), _arguments(tmp_path), rows).train()

    def test_fsdp_finds_the_layers_to_share_out(self) -> None:
        from accelerate.utils import FullyShardedDataParallelPlugin
        from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

        model = build(program_config("prompt"), "llama")
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
        policy = fsdp2_prepare_auto_wrap_policy(plugin, model)
        assert [m for m in model.modules() if policy(m)] == list(model.backbone.base.model.layers)

    def test_nothing_imports_evaluate(self) -> None:
        """E§0 37: its first import takes 25 seconds, and its metrics want the network (36). Ours stand apart."""
        package = Path(hr.__file__).parent
        files = {*package.rglob("*.py")} - {*(package / "tools" / "metrics").rglob("*.py")}
        assert not [p for p in files if "import evaluate" in p.read_text()]


class TestStreams:
    """Rows without a length."""

    @staticmethod
    def stream() -> datasets.IterableDataset:
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    def test_it_trains(self, tmp_path: Path) -> None:
        model = build(program_config("prompt"), "llama")
        before = _slots(model)
        trainer = make_trainer(model, _arguments(tmp_path), self.stream(), ROWS)
        trainer.train()
        assert trainer.state.global_step == 4 and not torch.equal(_slots(model), before)

    def test_without_a_number_of_steps(self, tmp_path: Path) -> None:
        model = build(program_config("prompt"), "llama")
        with pytest.raises(UsageError, match="max_steps: not set, and train_dataset streams without a length"):
            make_trainer(model, _arguments(tmp_path, max_steps=-1), self.stream())

    def test_a_mapping_that_wants_all_rows(self, tmp_path: Path) -> None:
        config = hr.ReprogramConfig(
            program={"type": "prompt", "template": "{prompt:2} {text} it was{answer}"}, mapping="linear", labels=LABELS
        )
        base, tokenizer = tiny("llama")
        model = get_reprogram_model(base, config, tokenizer)
        with pytest.raises(UsageError, match="estimated from all rows"):
            make_trainer(model, _arguments(tmp_path), self.stream())
        model.fit_mapping(list(self.stream().take(6)))
        make_trainer(model, _arguments(tmp_path), self.stream()).train()


class TestMovement:
    """U§1: whether it learns at all stands beside every evaluation."""

    def test_gradient_and_way_are_logged(self, tmp_path: Path) -> None:
        model = build(mapping_config("linear"), "llama")
        start = _slots(model)
        options = {"eval_strategy": "steps", "eval_steps": 4, "logging_steps": 4, "max_grad_norm": 1e-4}
        trainer = make_trainer(model, _arguments(tmp_path, **options), ROWS, ROWS)
        trainer.train()
        (judged,) = [log for log in trainer.state.log_history if "eval_loss" in log]
        (logged,) = [log for log in trainer.state.log_history if "grad_norm" in log]
        assert judged["program_moved"] == pytest.approx(
            (_slots(model) - start).square().mean().sqrt().item(), rel=1e-5
        )
        # Before clipping, and the program's alone: the mapping's is in the total.
        assert 1e-3 < judged["program_grad_norm"] < logged["grad_norm"]

    def test_the_share_of_the_program(self) -> None:
        """Gradients of length 3 and 4 make 5 together; clipped to 1 they are 0.6 and 0.8, and 5 is what it was."""
        model = build(mapping_config("linear"), "llama")
        slots, mapping = model.active_programs()[0].slots, model.active_mapping()
        slots.grad = torch.zeros_like(slots)
        slots.grad[0, 0] = 0.6
        mapping.matrix.grad = torch.zeros_like(mapping.matrix)
        mapping.matrix.grad[0, 0] = 0.8
        watch = Watch(model)
        watch.feel(5.0)
        with torch.no_grad():
            slots += 0.25
        assert watch.numbers() == {"program_grad_norm": pytest.approx(3.0), "program_moved": pytest.approx(0.25)}


def test_batches_hold_rows_of_like_length(tmp_path: Path) -> None:
    rows = [{"text": " ".join(["good"] * (1 + i % 16)), "label": "positive"} for i in range(64)]
    model = build(program_config("prompt"), "llama")
    size = {"per_device_train_batch_size": 4}
    trainers = make_trainer(model, _arguments(tmp_path, **size), rows), _plain(model, tmp_path, rows, **size)
    padding, plain = (sum(int((1 - b["attention_mask"]).sum()) for b in t.get_train_dataloader()) for t in trainers)
    assert padding < plain / 2


def test_estimation_comes_before_the_first_step(tmp_path: Path) -> None:
    config = hr.ReprogramConfig(
        program={"type": "prompt", "template": "{prompt:2} {text} it was{answer}"}, mapping="linear", labels=LABELS
    )
    base, tokenizer = tiny("llama")
    model = get_reprogram_model(base, config, tokenizer)
    assert model.active_mapping().needs_fit
    make_trainer(model, _arguments(tmp_path, max_steps=1), ROWS).train()
    assert not model.active_mapping().needs_fit


class TestRowsThatCannotBeLearnedFrom:
    def test_a_bad_row_says_where_it_is_counted(self, tmp_path: Path) -> None:
        """A batch is drawn at random: its second row is not the second of the data."""
        clips = [{**AUDIO_ROWS[0], "label": "positive"}, {**AUDIO_ROWS[1], "label": "positiv"}]
        model = build(program_config("waveform", "ast-classifier"), "ast-classifier")
        with pytest.raises(
            DataError, match=r"rows\[\d\]\['label'\]: unknown label 'positiv'.*counts within one batch"
        ):
            make_trainer(model, _arguments(tmp_path), clips).train()

    @pytest.mark.parametrize("base", ["llama", "ast-classifier"])
    def test_rows_without_labels(self, base: str, tmp_path: Path) -> None:
        row = {"text": "so good"} if base == "llama" else {"audio": AUDIO_ROWS[0]["audio"]}
        model = build(program_config("prompt" if base == "llama" else "waveform", base), base)
        with pytest.raises(DataError, match=r"train_dataset\[0\]: has no label"):
            make_trainer(model, _arguments(tmp_path), [row])
