"""Runs that test_ranks.py compares: each is called once by one process, and once by each of two ranks.

python two_ranks.py FOLDER
"""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor, distributed
from transformers import Trainer, TrainingArguments

import hf_reprogram as hr
from hf_reprogram import artefact
from hf_reprogram.data.shares import world
from hf_reprogram.errors import UsageError
from hf_reprogram.model import get_reprogram_model
from hf_reprogram.testing import LABELS, ROWS, build, program_config, tiny
from hf_reprogram.training import job, recipe
from hf_reprogram.training.trainer import make_trainer


EIGHT = (ROWS * 2)[:8]
# Twelve rows of different lengths: with batches of four, an order of their own in each epoch.
TWELVE = [{"text": " ".join(["good"] * n), "label": LABELS[n % 2]} for n in range(1, 13)]
TEMPLATE = "{prompt:2} {text} it was{answer}"


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Plain SGD, four rows a step over all ranks: Adam would blow up differences of 1e-9 (N35)."""
    fixed = {
        "remove_unused_columns": False, "report_to": [], "use_cpu": True, "disable_tqdm": True, "optim": "sgd",
        "learning_rate": 0.5, "max_grad_norm": 0.0, "max_steps": 2, "save_strategy": "no",
        "per_device_train_batch_size": 4 // world()[1], "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **{**fixed, **options})


def state(model: Any) -> dict[str, Tensor]:
    """All that is saved of the program."""
    return {name: tensor.detach().clone() for name, tensor in model.base_model.state("default").items()}


def plain(folder: Path) -> dict[str, Tensor]:
    """The ordinary Trainer."""
    model = build(program_config("prompt"), "llama")
    Trainer(model, arguments(folder), train_dataset=EIGHT, data_collator=model.collator()).train()
    return state(model)


def buckets(folder: Path) -> dict[str, Tensor]:
    """make_trainer, whose rows come by length; two epochs and a half."""
    model = build(program_config("prompt"), "llama")
    make_trainer(model, arguments(folder, max_steps=8, save_strategy="steps", save_steps=4), TWELVE).train()
    return state(model)


def resumed(folder: Path) -> dict[str, Tensor]:
    """The run of `buckets`, gone on from the midst of its second epoch."""
    model = build(program_config("prompt"), "llama")
    trainer = make_trainer(model, arguments(folder, max_steps=8), TWELVE)
    trainer.train(resume_from_checkpoint=str(folder.parent / "buckets" / "checkpoint-4"))
    return state(model)


def few_tokens(folder: Path) -> dict[str, Tensor]:
    """Symbols whose source tokens the gradient picks: that of the rows of all ranks."""
    model = build(program_config("dictionary"), "llama")
    make_trainer(model, arguments(folder), EIGHT).train()
    return state(model)


def estimated(folder: Path) -> dict[str, Tensor]:
    """A mapping that starts at the ridge solution of an odd number of rows, and then trains."""
    config = hr.ReprogramConfig(
        program={"type": "prompt", "template": TEMPLATE},
        mapping=hr.LinearConfig(solver="gradient", start="ridge"),
        labels=LABELS,
    )
    base, tokenizer = tiny("llama")
    model = get_reprogram_model(base, config, tokenizer)
    model.fit_mapping(ROWS[:5])
    fitted = model.active_mapping().matrix.detach().clone()
    make_trainer(model, arguments(folder), EIGHT).train()
    return {"fitted": fitted, **state(model)}


def different_data(folder: Path) -> dict[str, Tensor]:
    """Ranks that were given other rows: the estimated start is of all of them, and ranks stay together."""
    rows = [{**row, "text": f"{row['text']} {'good' if world()[0] else 'bad'}"} for row in EIGHT]
    config = hr.ReprogramConfig(
        program={"type": "prompt", "template": TEMPLATE},
        mapping=hr.LinearConfig(solver="gradient", start="ridge"),
        labels=LABELS,
    )
    base, tokenizer = tiny("llama")
    model = get_reprogram_model(base, config, tokenizer)
    make_trainer(model, arguments(folder), rows).train()
    return state(model)


def different_numbers(folder: Path) -> dict[str, str]:
    """Ranks that were given more or fewer rows: an error on all of them, where one would wait for ever."""
    model = build(program_config("prompt"), "llama")
    try:
        make_trainer(model, arguments(folder), EIGHT[: 8 - world()[0]]).train()
    except UsageError as error:
        return {"error": str(error)}
    return {"error": "none"}


def stream(folder: Path) -> dict[str, Tensor]:
    """Rows that are read as they come, padded batch by batch (N20)."""
    rows = datasets.Dataset.from_list(EIGHT).to_iterable_dataset()
    model = build(program_config("prompt"), "llama")
    make_trainer(model, arguments(folder), rows).train()
    return state(model)


def recipe_run(folder: Path) -> dict[str, Any]:
    """A whole recipe; how often this rank wrote an artefact."""
    base, tokenizer = tiny("llama")
    if world()[0] == 0:
        base.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS * 4))
    if world()[1] > 1:
        distributed.barrier()
    values = {
        "name": "r", "base": {"model": str(folder / "base")}, "output": str(folder / "out"),
        "cards": str(folder), "data": {"train": str(folder / "rows.jsonl"), "validation_share": 0.25},
        "preset": "prompt_tuning", "options": {"labels": {"negative": [" bad"], "positive": [" good"]}},
        "training": {"max_steps": 2, "use_cpu": True, "per_device_train_batch_size": 2, "disable_tqdm": True},
    }  # fmt: skip
    written, save = [], artefact.save
    artefact.save = lambda *given: (written.append(given[0]), save(*given))
    try:
        result = job.run(recipe.build(values, "recipe"))
    finally:
        artefact.save = save
    return {"written": torch.tensor(len(written)), "batch": result.record["batch_size"], **state(result.model)}


def sharded(folder: Path) -> dict[str, Tensor]:
    """FSDP2 over layers and root: gradients, and what is saved through the gathered state."""
    model = build(program_config("prompt"), "llama")
    before = state(model)
    if world()[1] > 1:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("fsdp",))
        for layer in model.backbone.base.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    model.train()
    model(**model.collator()(EIGHT)).loss.backward()
    (slots,) = model.active_programs()[0].parameters()
    found = {"gradient": slots.grad if world()[1] == 1 else slots.grad.full_tensor(), **before}
    if world()[1] > 1:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole = get_model_state_dict(model, options=options)
        model.save_pretrained(folder, state_dict=whole, is_main_process=world()[0] == 0)
        distributed.barrier()
        found["saved"] = artefact.load(folder)[1]
    return found


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    f.__name__: f
    for f in (
        plain, buckets, resumed, few_tokens, estimated, different_data, different_numbers, stream, recipe_run, sharded,
    )
}  # fmt: skip


def rank(folder: Path) -> None:
    """All runs, their results in FOLDER/RANK.pt."""
    distributed.init_process_group("gloo")
    assert world()[1] == 2, f"{world()[1]} process: nothing here would say anything about ranks"
    found: dict[str, Any] = {"world": distributed.get_world_size()}
    for name, run in RUNS.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        found[name] = run(own)
    torch.save(found, folder / f"{world()[0]}.pt")
    distributed.destroy_process_group()


def main(folder: Path) -> int:
    """Two ranks, as torchrun would start them; forked, so that torch and all the rest are imported once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            os.environ.update(
                RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            )  # fmt: skip
            try:
                rank(folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            sys.stdout.flush()
            os._exit(0)
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(Path(sys.argv[1])))
