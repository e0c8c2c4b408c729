"""The README says what is true: its example runs as it stands, its tables are those that scripts wrote."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from transformers import AutoTokenizer

import hf_reprogram as hr
from hf_reprogram import presets
from hf_reprogram.registry import method_class
from hf_reprogram.testing import tiny
from scripts import make_docs


README = (Path(__file__).parents[1] / "README.md").read_text()
HUB_NAME = "HuggingFaceTB/SmolLM2-135M"
AUTO = {"llama": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM", "t5": "AutoModelForSeq2SeqLM"}


def _example() -> str:
    return re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL).group(1)


@pytest.mark.parametrize("family", AUTO)
def test_the_twenty_lines_run_as_they_stand(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """On a tiny base in the place of SmolLM2, and a folder in the place of the Hub; nothing else is changed."""
    monkeypatch.chdir(tmp_path)
    base, tokenizer = tiny(family)
    base.save_pretrained(HUB_NAME)
    tokenizer.save_pretrained(HUB_NAME)
    hub = tmp_path / "me" / "reviews"
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda self, repo, **k: SimpleNamespace(repo_id=repo))

    def commit(self, repo, operations, **_):
        hub.mkdir(parents=True)
        for file in operations:
            (hub / file.path_in_repo).write_bytes(file.path_or_fileobj)
        return SimpleNamespace(pr_url=None)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", commit)
    words = _example().replace("AutoModelForCausalLM", AUTO[family]).replace(" terrible", " bad")
    exec(compile(words, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "trainable params: 320 ||" in printed
    assert re.search(r"\[\{'label': '(negative|positive)', 'score': 0\.\d+\}\]", printed)
    assert sorted(p.name for p in hub.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for path in hub.iterdir():  # the card tells where it is
        saved = (tmp_path / "reviews" / path.name).read_bytes()
        assert path.read_bytes() == saved.replace(b'from_pretrained("reviews")', b'from_pretrained("me/reviews")')


def test_words_of_a_model_that_is_asked(smollm2: Path, capsys: pytest.CaptureFixture) -> None:
    words = re.search(r"<!-- words-asked -->\n```python\n(.*?)```", README, re.DOTALL).group(1)
    scope: dict[str, Any] = {"hr": hr, "AutoTokenizer": AutoTokenizer}
    exec(compile(words.replace(HUB_NAME, str(smollm2)), "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert scope["found"].chosen == "program"
    assert "place 0, tokens [' Review'" in printed and "'praise'" in printed


def test_the_example_is_twenty_lines() -> None:
    assert len([line for line in _example().splitlines() if line.strip()]) <= 20


def test_generated_parts_are_up_to_date() -> None:
    assert make_docs.render(README) == README, "run `make docs`"


def test_an_exception_of_a_method_is_a_footnote(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = method_class("mapping", "verbalizer")
    monkeypatch.setattr(cls, "xfail", {"padding_changes_nothing": "it counts tokens."})
    table, last = make_docs.families(), len(make_docs._exceptions())
    assert f"| `verbalizer` ({last}) |" in table and f"({last + 1})" not in table
    assert table.endswith(f"\n{last}. `verbalizer`: `padding_changes_nothing` does not hold: it counts tokens.")


def test_every_public_name_is_there() -> None:
    for name in re.findall(r"\bhr\.(\w+)", README):
        assert getattr(hr, name) is not None


def test_every_preset_is_named() -> None:
    assert [name for name in presets.names() if f"`{name}`" not in README] == []
