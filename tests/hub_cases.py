"""Run by `test_hub.py` as a pytest of its own: push and load against a Hub on this machine (DESIGN 6.13, E§4).

In a process of its own because HF_ENDPOINT is read when huggingface_hub is imported (E§0 39). By hand:
`python -m pytest --noconftest tests/hub_cases.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.hub_server import ENVIRONMENT, HUB, TOKEN, Fault, Hub, Repo


os.environ.update(ENVIRONMENT)

import huggingface_hub
import pytest
import torch
import yaml

import hf_reprogram as hr
from hf_reprogram import hub as room
from hf_reprogram.errors import ArtefactError, ReprogramError, UsageError
from hf_reprogram.testing import ROWS, logits_of, program_config, tiny
from hf_reprogram.testing.helpers import train_step


torch.set_num_threads(1)
FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(autouse=True)
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The Hub, empty but for one base, a client with an empty cache, and an owner who is logged in."""
    HUB.reset()
    HUB.tokens = {TOKEN: "me", TOKEN[::-1]: "you"}
    HUB.repos["me/tiny"] = Repo()
    HUB.repos["me/tiny"].commit("main", _base_files())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    yield HUB
    HUB.released.set()
    assert HUB.unknown == [], "huggingface_hub asks for something new: the protocol has changed"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@cache
def _base_files() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        for part in tiny("llama"):
            part.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _model(seed: int = 0) -> hr.ReprogramModel:
    """A program on the tiny base, which the Hub knows as me/tiny."""
    base, tokenizer = tiny("llama")
    base.config._name_or_path = "me/tiny"
    return hr.get_reprogram_model(base, program_config("prompt"), tokenizer, seed=seed)


_kept = cache(_model)  # for tests that do not change it


def _load(repo: str = "me/reviews", **options: object) -> hr.ReprogramModel:
    return hr.AutoReprogramModel.from_pretrained(repo, *tiny("llama"), **options)


def _same(a: hr.ReprogramModel, b: hr.ReprogramModel) -> bool:
    return torch.equal(logits_of(a, ROWS), logits_of(b, ROWS))


def _public() -> hr.ReprogramModel:
    """A pushed program; what was asked for so far is forgotten."""
    model = _kept()
    model.push_to_hub("me/reviews")
    HUB.seen.clear()
    return model


# The whole way


def test_from_nothing_to_a_stranger_s_process(hub: Hub, tmp_path: Path) -> None:
    """Base, tokenizer and program pushed; a fresh process loads all three from one name, in each of three ways."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hub.repos.clear()
    for part in tiny("llama"):
        part.push_to_hub("me/tiny")
    base, tokenizer = AutoModelForCausalLM.from_pretrained("me/tiny"), AutoTokenizer.from_pretrained("me/tiny")
    model = hr.get_reprogram_model(base, program_config("prompt"), tokenizer)
    train_step(model)
    assert model.push_to_hub("me/reviews").startswith(f"{hub.url}/me/reviews/commit/")
    torch.save(logits_of(model, ROWS), tmp_path / "logits.pt")

    script = Path(__file__).with_name("hub_elsewhere.py")
    command = [sys.executable, str(script), "me/reviews", str(tmp_path / "logits.pt")]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": ""}  # a stranger's
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("snippet").startswith("[{'label': '")
    assert found == {"torch": False, "peft": "ReprogramConfig", "equal": True}  # E§0 3


class TestPush:
    def test_makes_a_repo_in_one_commit(self, hub: Hub) -> None:
        _public()
        repo = hub.repos["me/reviews"]
        assert len(repo.commits) == 2  # the Hub's own, with .gitattributes, and ours
        assert sorted(repo.files()) == [".gitattributes", *FILES]

    def test_its_card_names_the_repo_and_the_base(self, hub: Hub) -> None:
        _public()
        card = hub.repos["me/reviews"].files()["README.md"].decode()
        assert 'from_pretrained("me/reviews")' in card
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["base_model"] == "me/tiny" and front["base_model_relation"] == "adapter"
        assert hub.seen == [] and "POST /api/validate-yaml" not in hub.unknown

    def test_a_card_with_metrics_passes_the_hub_s_own_check(self, hub: Hub) -> None:
        model = _model()
        model.peft_config["default"].training = {"metrics": {"accuracy": 0.84, "n": 100}}
        model.push_to_hub("me/reviews")
        card = huggingface_hub.ModelCard(hub.repos["me/reviews"].files()["README.md"].decode())
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", 0.84)
        assert card.data.model_name == "reviews" and "POST /api/validate-yaml" in hub.seen

    def test_again_makes_no_second_commit(self, hub: Hub) -> None:
        """A second save of the same program is byte-identical, card included."""
        model = _public()
        model.push_to_hub("me/reviews")
        assert len(hub.repos["me/reviews"].commits) == 2

    def test_keeps_other_files(self, hub: Hub) -> None:
        repo = hub.repos["me/reviews"] = Repo()
        repo.commit("main", {"notes.txt": b"mine", "README.md": b"---\nlicense: mit\n---\nold"})
        _public()
        assert repo.files()["notes.txt"] == b"mine" and sorted(repo.files()) == [*FILES, "notes.txt"]

    def test_puts_other_programs_into_sub_folders(self, hub: Hub) -> None:
        model = _model()
        model.add_adapter("topics", program_config("prompt"), seed=7)
        model.push_to_hub("me/reviews")
        files = hub.repos["me/reviews"].files()
        assert sorted(files) == [".gitattributes", *FILES, *(f"topics/{name}" for name in FILES)]
        assert b'from_pretrained("me/reviews", subfolder="topics")' in files["topics/README.md"]
        again = _load()
        again.load_adapter("me/reviews", "topics", subfolder="topics")
        for name in ("default", "topics"):
            model.set_adapter(name)
            again.set_adapter(name)
            assert _same(again, model)

    def test_a_name_of_one_s_own(self, hub: Hub) -> None:
        _model().push_to_hub("reviews")
        assert b'from_pretrained("me/reviews")' in hub.repos["me/reviews"].files()["README.md"]

    def test_to_a_branch_and_as_a_pull_request(self, hub: Hub) -> None:
        first, repo = _public(), hub.repos["me/reviews"]
        second, third = _model(seed=1), _model(seed=2)
        second.push_to_hub("me/reviews", revision="v2")
        assert third.push_to_hub("me/reviews", create_pr=True).endswith("/me/reviews/discussions/1")
        for model, ref in ((first, None), (second, "v2"), (second, repo.refs["v2"]), (third, "refs/pr/1")):
            assert _same(_load(revision=ref), model)

    def test_large_files_without_xet(self, hub: Hub) -> None:
        """E§0 38: where the Hub asks for a large-file upload, HF_HUB_DISABLE_XET takes the classic way."""
        hub.lfs = True
        model = _public()
        assert len(hub.blobs) == 1 and _same(_load(), model)

    def test_what_cannot_be_saved_leaves_no_repo(self, hub: Hub) -> None:
        model = _model()
        next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))
        with pytest.raises(ArtefactError, match="NaN"):
            model.push_to_hub("me/reviews")
        assert hub.seen == []


class TestLoad:
    def test_private_repos(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        model = _model()
        model.push_to_hub("me/reviews", private=True)
        assert hub.repos["me/reviews"].private
        monkeypatch.delenv("HF_TOKEN")
        assert _same(_load(token=TOKEN), model)

    def test_base_and_tokenizer_may_be_private_too(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        model = _public()
        hub.repos["me/tiny"].private = True
        monkeypatch.delenv("HF_TOKEN")
        assert _same(hr.AutoReprogramModel.from_pretrained("me/reviews", token=TOKEN), model)
        with pytest.raises(ArtefactError, match=r"its base 'me/tiny' could not be loaded"):
            hr.AutoReprogramModel.from_pretrained("me/reviews", cache_dir="elsewhere")

    def test_cache_dir_and_local_files_only(self, hub: Hub, tmp_path: Path) -> None:
        model = _public()
        _load(cache_dir=tmp_path / "mine")
        hub.seen.clear()
        assert _same(_load(cache_dir=tmp_path / "mine", local_files_only=True), model)
        with pytest.raises(ArtefactError, match="me/reviews: .*not in the cache, and local_files_only=True"):
            _load(local_files_only=True)
        assert hub.seen == []

    def test_offline_after_a_first_load(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = _public()
        hr.AutoReprogramModel.from_pretrained("me/reviews")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        hub.seen.clear()
        assert _same(hr.AutoReprogramModel.from_pretrained("me/reviews"), model)
        assert hub.seen == [] and caplog.text == ""
        with pytest.raises(ArtefactError, match="me/other: .*HF_HUB_OFFLINE.*Fix: unset HF_HUB_OFFLINE"):
            _load("me/other")
        with pytest.raises(UsageError, match="me/reviews: .*HF_HUB_OFFLINE"):
            model.push_to_hub("me/reviews")

    def test_what_was_fetched_before_serves_while_the_hub_is_down(
        self, hub: Hub, caplog: pytest.LogCaptureFixture, waits: list[float]
    ) -> None:
        model = _public()
        _load()
        hub.faults = [Fault("", 503, times=99)]
        assert _same(_load(), model) and waits == []
        assert "me/reviews: it answered 503" in caplog.text and "fetched earlier is used" in caplog.text

    def test_a_new_commit_is_seen(self, hub: Hub) -> None:
        _public()
        _load()
        second = _model(seed=1)
        second.push_to_hub("me/reviews")
        assert _same(_load(), second)

    def test_only_what_is_needed_is_asked_for(self, hub: Hub) -> None:
        _public()
        hub.repos["me/reviews"].files()["big.bin"] = b"x"
        _load()
        assert not any("big.bin" in asked for asked in hub.seen) and len(hub.seen) <= 9

    @pytest.mark.parametrize(
        ("repo", "options", "says"),
        [
            ("me/nothing", {}, "me/nothing: .*there is no such repo, or it is private.*Fix: check the name"),
            ("me/reviews", {"revision": "v9"}, "me/reviews@v9: .*no such revision"),
            ("me/tiny", {}, r"me/tiny: holds no adapter_model\.safetensors \(it holds \["),
            ("me/reviews", {"subfolder": "topcs"}, "holds no topcs/adapter_model.* Fix: .*did you mean.*topics"),
            ("me/reviews", {"subfolder": "../x"}, "holds no"),
            ("me/reviews", {"token": "hf_wrong"}, "does not know this token"),
            ("me/re views", {}, "me/re views: .*no repo id"),
            ("me/reviews", {"revison": "v1"}, "revison: .*did you mean 'revision'"),
        ],
    )  # fmt: skip
    def test_what_is_not_there(self, repo: str, options: dict, says: str) -> None:
        _public()
        HUB.repos["me/reviews"].files()["topics/adapter_model.safetensors"] = b""
        with pytest.raises(ReprogramError, match=says):
            room.fetch(repo, **options)


# Faults


def _fetch() -> object:
    return room.fetch("me/reviews")


def _push() -> object:
    return _kept(seed=1).push_to_hub("me/reviews")


_CALLS: dict[str, tuple[str, Callable[[], object]]] = {
    "load": (r"GET /api/models/me/reviews", _fetch),
    "list": (r"GET .*/tree/", _fetch),
    "file": (r"GET .*/resolve/.*safetensors", _fetch),
    "create": (r"POST /api/repos/create", _push),
    "check": (r"POST /api/validate-yaml", _push),
    "preupload": (r"POST .*/preupload/", _push),
    "commit": (r"POST .*/commit/", _push),
}


class TestFaults:
    @pytest.mark.parametrize("kind", [429, "garbage"])
    @pytest.mark.parametrize("call", _CALLS)
    def test_that_pass_are_waited_for(self, hub: Hub, call: str, kind: int | str, waits: list[float]) -> None:
        _public()
        pattern, work = _CALLS[call]
        hub.faults = [Fault(pattern, kind, times=2, headers={"Retry-After": "7"} if kind == 429 else {})]
        if (call, kind) == ("file", "garbage"):  # what a file holds is looked at once it is here
            with pytest.raises(ArtefactError, match="Consistency check"):
                work()
            return
        work()
        assert len(waits) == 2
        # huggingface_hub reads the answer to a check as JSON before it looks at its status.
        assert kind != 429 or call == "check" or min(waits) >= 7

    @pytest.mark.parametrize(
        ("call", "kind"),
        [
            *((call, kind) for call in ("load", "create", "commit") for kind in (429, 500, "garbage", "hang up")),
            *(("list", 503), ("file", 429), ("file", "garbage"), ("check", "garbage"), ("preupload", 503)),
        ],
    )
    def test_that_stay_end_in_our_error(
        self, hub: Hub, call: str, kind: int | str, waits: list[float], caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture,
    ) -> None:  # fmt: skip
        """The error names the repo and what happened; nothing of the push is there; the token is nowhere."""
        _public()
        before = dict(hub.repos["me/reviews"].files())
        pattern, work = _CALLS[call]
        hub.faults = [Fault(pattern, kind, times=999)]
        with pytest.raises(ArtefactError) as caught:
            work()
        error = caught.value
        assert error.where == "me/reviews" and error.fix
        assert isinstance(kind, str) or call == "check" or str(kind) in str(error)
        assert hub.repos["me/reviews"].files() == before and 999 - hub.faults[0].times <= 6
        _no_token("".join(traceback.format_exception(error)) + repr(error) + caplog.text + "".join(capfd.readouterr()))


def _no_token(text: str) -> None:
    assert TOKEN not in text and TOKEN[3:] not in text


class TestStalls:
    """huggingface_hub waits without end for most answers."""

    @pytest.mark.parametrize("call", ["load", "create", "commit"])
    def test_end_in_our_error(self, hub: Hub, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
        _public()
        monkeypatch.setattr(room, "TIME_LIMIT", 0.5)
        pattern, work = _CALLS[call]
        hub.faults = [Fault(pattern, "stall", times=99)]
        with pytest.raises(ArtefactError, match="me/reviews: .*did not answer in time") as caught:
            work()
        _no_token("".join(traceback.format_exception(caught.value)))

    def test_a_wait_that_is_too_long_is_not_begun(self, hub: Hub, waits: list[float]) -> None:
        _public()
        hub.faults = [Fault("GET /api/models/me/reviews", 429, times=99, headers={"Retry-After": "3600"})]
        with pytest.raises(ArtefactError, match=r"me/reviews: .*429, wait 3600 s"):
            _load()
        assert waits == []


class TestDamage:
    def test_a_body_that_ends_early(self, hub: Hub, waits: list[float]) -> None:
        model = _public()
        hub.faults = [Fault(r"GET .*/resolve/.*safetensors", "truncate", times=1)]
        assert _same(_load(), model)
        hub.faults = [Fault(r"GET .*/resolve/.*safetensors", "truncate", times=999)]
        with pytest.raises(ArtefactError, match="me/reviews"):
            _load(cache_dir="other")

    @pytest.mark.parametrize(
        ("file", "kind", "says"),
        [
            ("config.json", "garbage", "its base 'me/tiny' could not be loaded"),
            ("model.safetensors", "truncate", "its base 'me/tiny' could not be loaded"),
            ("model.safetensors", 500, "its base 'me/tiny' could not be loaded .*500"),
            ("tokenizer.json", "hang up", "the tokenizer of 'me/tiny' could not be loaded"),
        ],
    )
    def test_of_the_base_on_its_way(self, hub: Hub, file: str, kind: int | str, says: str, waits: list[float]) -> None:
        _public()
        hub.faults = [Fault(f"GET /me/tiny/resolve/.*/{file}", kind, times=999)]
        with pytest.raises(ArtefactError, match=says) as caught:
            hr.AutoReprogramModel.from_pretrained("me/reviews", cache_dir="other")
        assert caught.value.where == "me/reviews"


class TestTokens:
    """Nothing that we print holds one."""

    @pytest.mark.parametrize("token", [TOKEN + "\n", f" {TOKEN}\r\n"])
    @pytest.mark.parametrize("work", ["load", "push"])
    def test_one_with_a_line_break(self, token: str, work: str) -> None:
        """A token pasted with its line break: the HTTP library's own error quotes it."""
        model = _public()
        with pytest.raises(ReprogramError, match="me/reviews: .*holds a line break") as caught:
            _load(token=token) if work == "load" else model.push_to_hub("me/reviews", token=token)
        _no_token("".join(traceback.format_exception(caught.value)))

    def test_one_that_the_server_sends_back(self, hub: Hub) -> None:
        _public()
        hub.faults = [Fault("GET /api", 400, headers={"X-Error-Message": f"bad header: Bearer {TOKEN}"})]
        with pytest.raises(ArtefactError) as caught:
            _load()
        _no_token("".join(traceback.format_exception(caught.value)))

    @pytest.mark.parametrize(
        ("repo", "token", "says"),
        [
            ("you/reviews", TOKEN, r"you/reviews: .*\(40[34]\)|may not do that"),
            ("me/reviews", TOKEN[::-1], r"me/reviews: .*may not do that"),
            ("me/reviews", False, "me/reviews: .*no such repo, or it is private"),
            ("me/re views", TOKEN, "me/re views: .*no repo id"),
            (7, TOKEN, "7: .*no repo id"),
        ],
    )
    def test_pushing_where_one_may_not(self, repo: str, token: str, says: str) -> None:
        with pytest.raises(UsageError, match=says) as caught:
            _kept().push_to_hub(repo, token=token)
        _no_token("".join(traceback.format_exception(caught.value)))


def test_nothing_else_asks_the_hub_for_anything(hub: Hub, tmp_path: Path) -> None:
    """U§12: a finished run must not be lost because saving wanted the Hub."""
    model = _model()
    hub.seen.clear()
    train_step(model)
    model.save_pretrained(tmp_path / "reviews")
    model.evaluate(ROWS)
    again = _load(str(tmp_path / "reviews"))
    assert _same(again, model) and again.predict("good") and again.explain()
    again.load_adapter(tmp_path / "reviews", "second")
    again.save_pretrained(tmp_path / "again")
    assert hub.seen == []
