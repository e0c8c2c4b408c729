"""A model behind HTTP that fails, stalls, limits, babbles; and what the user is told of it."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hf_reprogram as hr
from hf_reprogram.errors import ArtefactError, BaseModelError, BudgetError, ConfigError, UsageError
from hf_reprogram.sources.channel import Channel


ROWS = [
    {"text": text, "label": label}
    for text, label in (("foo", "o"), ("eel", "e"), ("wood", "o"), ("bee", "e"), ("oboe", "o"), ("teepee", "e"))
]


class Server:
    """An endpoint on this machine that can fail, stall, limit and babble; it never sends a word of truth twice."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.troubles: list[Any] = []  # what becomes of the next posts, one each
        self.scores = scores
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1/completions"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.posts.append(body | {"authorization": handler.headers.get("Authorization")})
        self.times.append(time.monotonic())
        trouble = self.troubles.pop(0) if self.troubles else None
        if isinstance(trouble, tuple):
            handler.send_response(trouble[0])
            for name, value in trouble[1].items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(b"".join(trouble[2:]))
            return
        if callable(trouble):
            trouble()
        if trouble == "stall":
            time.sleep(0.6)
        told = self.scores(body.get("prompt", body.get("inputs")))
        if handler.path.endswith("/generate"):
            made: Any = {"details": {"top_tokens": [[{"text": t, "logprob": v} for t, v in told.items()]]}}
        else:
            made = {"choices": [{"logprobs": {"top_logprobs": [told]}}]}
        sent = trouble if isinstance(trouble, bytes) else json.dumps(made).encode()
        handler.send_response(200)
        handler.end_headers()
        with suppress(BrokenPipeError):  # who asked has given up
            handler.wfile.write(sent)


def scores(text: str) -> dict[str, float]:
    """Log-probabilities of three tokens by a rule: o and e as often as they stand there."""
    o, e = 1 + text.count("o"), 1 + text.count("e")
    total = o + e + 2
    return {" o": math.log(o / total), " e": math.log(e / total), " the": math.log(2 / total)}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def endpoint(server: Server, **more: Any) -> hr.Endpoint:
    return hr.Endpoint(**{"url": server.url, "words": [" o", " e"], "pause": 0.01, "timeout": 0.3} | more)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """An interrupt is heard, as in a terminal: jobs that a shell runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestEndpoint:
    """OpenAI's completions and text-generation-inference."""

    @pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
    def test_log_probabilities_of_words_in_the_order_of_the_texts(self, server: Server, path: str) -> None:
        ask = endpoint(server, url=server.url.replace("/v1/completions", path), model="m", together=8)
        texts = [f"{'o' * n} {'e' * (20 - n)}" for n in range(20)]
        found = ask(texts)
        for text, row in zip(texts, found, strict=True):
            assert row == pytest.approx([scores(text)[" o"], scores(text)[" e"]])
        assert len(server.posts) == 20 and ask.floored == 0.0

    def test_it_tries_again(self, server: Server) -> None:
        server.troubles = [(503, {}), "stall", b"{no json", (429, {"Retry-After": "0.2"})]
        start = time.monotonic()
        assert endpoint(server)(["foo"])[0][0] == pytest.approx(scores("foo")[" o"])
        assert len(server.posts) == 5 and time.monotonic() - start > 0.2  # it waited as it was told to

    @pytest.mark.parametrize(
        ("troubles", "says", "posts"),
        [
            ([(500, {})] * 9, "HTTP 500.*3 times.*the server's log", 3),
            ([(401, {})] * 9, "HTTP 401.*key=ENV_VARIABLE", 1),  # trying again would not help
            ([(404, {})], "HTTP 404.*path of the URL.*model=NAME", 1),
            ([(400, {}, b"logprobs: at most 5")], "asked 'foo', gave HTTP 400.*at most 5.*smaller top=N", 1),
            ([(429, {})] * 9, "HTTP 429.*3 times.*per_minute=N", 3),
            ([b"<html>"] * 9, "no JSON.*<html>.*not of a page", 3),
            (["stall"] * 9, "no answer within 0.3 s.*3 times.*timeout=N waits longer", 3),
            ([b'{"choices": []}'], "log-probabilities of the likeliest", 1),
            ([b'{"choices": [{"logprobs": {"top_logprobs": [{" o": 3.0}]}}]}'], "at most 0", 1),
            ([b'{"choices": [{"logprobs": {"top_logprobs": [{}]}}]}'], "at most 0", 1),
            ([b"[]"], "log-probabilities of the likeliest", 1),
        ],
        ids=str,
    )
    def test_it_gives_up_and_says_why(self, server: Server, troubles: list[Any], says: str, posts: int) -> None:
        server.troubles = troubles
        with pytest.raises(BaseModelError, match=says):
            endpoint(server, retries=2)(["foo"])
        assert len(server.posts) == posts

    def test_nobody_there(self) -> None:
        """A server that never answered is mostly a wrong address: nobody waits 15 s to be told so."""
        start = time.monotonic()
        with pytest.raises(BaseModelError, match="refused.*start the server, or mend host and port"):
            hr.Endpoint("http://127.0.0.1:9/v1/completions", [" o", " e"])(["foo"])
        assert time.monotonic() - start < 1.0

    def test_a_token_that_is_refused_is_named(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN_HERE", "secret")
        server.troubles = [(403, {})]
        with pytest.raises(BaseModelError, match="valid token in the environment variable TOKEN_HERE") as caught:
            endpoint(server, key="TOKEN_HERE")(["foo"])
        assert "secret" not in str(caught.value)

    def test_answers_are_said_to_be_kept_where_they_are(self, server: Server, tmp_path: Path) -> None:
        for cache, says in (
            (None, "cache=FILE keeps answers"),
            (tmp_path / "a.db", r"the 2 answers in .*a\.db are kept"),
        ):
            base, _ = hr.remote_text(endpoint(server), ["o", "e"], "server@1", cache=cache)
            server.troubles = [None, None, (400, {})]
            base.model.channel(["a", "b"])
            with pytest.raises(BaseModelError, match=says):
                base.model.channel(["c"])

    def test_a_wait_that_is_too_long_is_told_and_not_waited_for(self, server: Server) -> None:
        server.troubles = [(429, {"Retry-After": "36000"})]
        with pytest.raises(BaseModelError, match="36,000 s, which is more than 60.*per_minute=N"):
            endpoint(server)(["foo"])
        assert len(server.posts) == 1

    def test_a_long_wait_is_spoken_of(
        self, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slept: list[float] = []
        clock = SimpleNamespace(sleep=slept.append, time=time.time, monotonic=lambda: time.monotonic() + sum(slept))
        monkeypatch.setattr("hf_reprogram.sources.endpoint.time", clock)
        server.troubles = [(429, {"Retry-After": "20"})]
        endpoint(server)(["foo"])
        assert 20.0 in slept and "HTTP 429" in caplog.text and "again in 20.0 s" in caplog.text

    def test_seconds_hold_within_a_query_too(self, server: Server) -> None:
        for trouble, says in (
            ("stall", r"no answer within 0\.\d+ s.*the time is over"),
            ((503, {"Retry-After": "30"}), "30.0 s away and 0"),
        ):
            server.troubles = [trouble]
            base, _ = hr.remote_text(endpoint(server, timeout=9.0), ["o", "e"], "server@1", seconds=0.2)
            start = time.monotonic()
            with pytest.raises(BudgetError, match=f"{says}.*more seconds; cache=FILE"):
                base.model.channel(["foo"])
            assert time.monotonic() - start < 0.5

    def test_an_answer_in_drops_is_not_waited_for(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket's timeout is that of each drop."""

        def dripping(handler: BaseHTTPRequestHandler) -> None:
            handler.rfile.read(int(handler.headers["Content-Length"]))
            handler.send_response(200)
            handler.end_headers()
            with suppress(OSError):
                for _ in range(100):
                    handler.wfile.write(b" ")
                    time.sleep(0.05)

        monkeypatch.setattr(server, "answer", dripping)
        start = time.monotonic()
        with pytest.raises(BaseModelError, match="no answer within 0.3 s"):
            endpoint(server, timeout=0.3, retries=0)(["foo"])
        base, tokenizer = hr.remote_text(endpoint(server, timeout=9, retries=0), ["o", "e"], "drops@1", seconds=0.3)
        with pytest.raises(BudgetError):
            base(**tokenizer("foo", return_tensors="pt"))
        assert time.monotonic() - start < 3  # the drops take five seconds each time

    def test_no_error_shows_what_may_be_secret(self, server: Server) -> None:
        with pytest.raises(ConfigError) as told:
            endpoint(server, key="hf_secretSecret")
        assert "secret" not in str(told.value) and "15 characters" in str(told.value)
        with pytest.raises(ConfigError, match="a name or a password before the host") as told:
            hr.Endpoint("http://me:secret@127.0.0.1:9/v1/completions", [" a", " b"])
        assert "secret" not in str(told.value)
        server.troubles = [(500, {}, b"no")]
        asked = hr.Endpoint(f"{server.url}?api_key=secret", [" a", " b"], retries=0)
        with pytest.raises(BaseModelError, match="v1/completions, asked 'foo', gave HTTP 500") as told:
            asked(["foo"])
        assert "secret" not in str(told.value)

    def test_words_that_are_not_told(self, server: Server) -> None:
        told = {" the": -0.5, "o ": -1.0, " o": -2.0}
        server.troubles = [json.dumps({"choices": [{"logprobs": {"top_logprobs": [told]}}]}).encode()]
        ask = endpoint(server, words=[" o", " e", "o"])
        # As written; one nat below the least; not as written: both spellings together.
        assert ask(["foo"])[0] == pytest.approx([-2.0, -3.0, math.log(math.exp(-1.0) + math.exp(-2.0))])
        assert ask.floored == pytest.approx(1 / 3)

    def test_words_that_are_never_told_are_spoken_of_once(
        self, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        endpoint(server)(["foo"])
        assert not caplog.records
        ask = endpoint(server, words=["awful", "nice"])
        ask(["foo"])
        ask(["bar"])
        assert caplog.text.count("none of the words ['awful', 'nice']") == 1

    def test_words_that_are_told_for_no_text_of_many_are_refused(self, server: Server) -> None:
        ask = endpoint(server, words=["awful", "nice"], top=5)
        with pytest.raises(BaseModelError, match="none of the words.*for any of 8 texts.*larger top= than 5"):
            ask(list("abcdefgh"))

    def test_silence_is_refused_from_the_cache_too(self, server: Server, tmp_path: Path) -> None:
        """The answers were paid for, and are kept: that does not make them speak."""
        for _ in range(2):
            base, _ = hr.remote_text(
                endpoint(server, words=["awful", "nice"]), ["bad", "good"], "server@1", cache=tmp_path / "a.db"
            )
            with pytest.raises(BaseModelError, match="none of the words.*for any of 8 texts"):
                base.model.channel(list("abcdefgh"))
        assert len(server.posts) == 8

    def test_what_was_not_told_is_known_from_the_cache_too(self, server: Server, tmp_path: Path) -> None:
        for sent in (2, 0):
            base, _ = hr.remote_text(
                endpoint(server, words=[" o", " zebra"]), ["o", "z"], "server@1", cache=tmp_path / "a.db"
            )
            base.model.channel(["foo", "bar", "foo"])
            assert (base.model.channel.untold, base.model.channel.wanted, base.model.channel.sent) == (3, 3, sent)

    def test_an_outcome_says_what_was_not_told(
        self, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """From the cache too, and loudly where it is most."""
        for words, share in (
            ([" o", " zebra"], 1 / 2),
            ([" zebra", " o", " horse"], 2 / 3),
            ([" zebra", " o", " horse"], 2 / 3),
        ):
            base, tokenizer = hr.remote_text(
                endpoint(server, words=words), words, "server@1", cache=tmp_path / f"{len(words)}.db"
            )
            config = hr.ReprogramConfig(program="none", mapping=hr.LinearConfig(on="classes"), labels=["o", "e"])
            model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
            assert hr.fit_blackbox(model, ROWS, ROWS).floored == pytest.approx(share)
            assert model.peft_config["default"].training["blackbox"]["floored"] == pytest.approx(share)
            assert ("67 % of the words' log-probabilities are not told" in caplog.text) == (share > 0.5)

    def test_no_more_than_so_many_in_a_minute(self, server: Server) -> None:
        endpoint(server, per_minute=600, together=8)(["a", "b", "c", "d"])
        gaps = np.diff(sorted(server.times))
        assert server.times[-1] - server.times[0] > 0.25 and gaps.min() > 0.05

    def test_the_token_comes_from_the_environment(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TOKEN_HERE", "secret")
        endpoint(server, key="TOKEN_HERE")(["foo"])
        assert server.posts[0]["authorization"] == "Bearer secret"
        with pytest.raises(ConfigError, match="NOT_THERE"):
            endpoint(server, key="NOT_THERE")

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            ({"words": [" o"]}, "at least two words"),
            ({"words": "bad"}, "a list of words"),
            ({"url": "http://x/v1/chat/completions"}, "Fix: http://x/v1/completions"),
            ({"url": "localhost/v1/completions"}, "Fix: http://localhost/v1/completions"),
            ({"url": "localhost:80/v1/completions"}, "Fix: http://localhost:80/v1/completions"),
            ({"url": "http://localhost:port/v1/completions"}, "http://HOST:PORT/PATH"),
            ({"url": "http://localhost:80"}, "ends in /completions.*Fix: http://localhost:80/v1/completions"),
            ({"kind": "soap"}, "openai or tgi"),
            ({"together": 9}, r"Endpoint\(together\): 9.*at most 8"),
            ({"together": 0}, r"Endpoint\(together\): 0.*whole number from 1"),
            ({"top": 0}, r"Endpoint\(top\): 0.*whole number from 1"),
            ({"top": 2.5}, r"Endpoint\(top\): 2.5.*whole number from 1"),
            ({"retries": -1}, r"Endpoint\(retries\): -1.*whole number from 0"),
            ({"timeout": 0}, r"Endpoint\(timeout\): 0\. Expected a number from 0.001"),
            ({"timeout": "9"}, r"Endpoint\(timeout\): '9'"),
            ({"timeout": math.inf}, r"Endpoint\(timeout\): inf.*at most 86400"),
            ({"pause": -1.0}, r"Endpoint\(pause\): -1.0"),
            ({"pause": math.nan}, r"Endpoint\(pause\): nan"),
            ({"per_minute": -5}, r"Endpoint\(per_minute\): -5.*per_minute=None sets no limit"),
            ({"per_minute": 0}, r"Endpoint\(per_minute\): 0"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be_meant(self, server: Server, more: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            endpoint(server, **more)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"words": [" e", " o"]}, r"for x, y \(words ' o', ' e'\)\" is not .*\(words ' e', ' o'\)"),
            ({"model": "other"}, "another model: 'm' is not 'other'"),
            ({"top": 5}, "another top: '20' is not '5'"),
        ],
        ids=str,
    )
    def test_answers_to_another_question_are_not_believed(
        self, server: Server, tmp_path: Path, change: dict[str, Any], says: str
    ) -> None:
        def channel(ask: Any) -> Any:
            return hr.remote_text(ask, ["x", "y"], "server@1", cache=tmp_path / "a.db")[0].model.channel

        first = channel(endpoint(server, model="m"))(["foo"])
        with pytest.raises(UsageError, match=f"{says}.*rebuild=True"):
            channel(endpoint(server, **{"model": "m"} | change))
        with pytest.raises(UsageError, match=r"\(words ' o', ' e'\).*is not .* for x, y.\. Fix"):
            channel(lambda texts: [[0.0, 1.0]] * len(texts))
        moved = endpoint(server, model="m", url=server.url.replace("127.0.0.1", "localhost"), timeout=9.0, retries=0)
        np.testing.assert_array_equal(channel(moved)(["foo"]), first)
        assert len(server.posts) == 1

    def test_a_file_that_says_no_words_is_not_believed_of_an_endpoint(self, server: Server, tmp_path: Path) -> None:
        Channel(lambda texts: [[0.0, 1.0]] * len(texts), "server@1", 2, cache=tmp_path / "a.db")
        with pytest.raises(UsageError, match="another list of words: None is not '.* o"):
            Channel(endpoint(server), "server@1", 2, cache=tmp_path / "a.db")

    def test_a_program_is_loaded_onto_the_same_words(self, server: Server, tmp_path: Path) -> None:
        def base(words: list[str]) -> tuple[Any, Any]:
            return hr.remote_text(endpoint(server, words=words), ["x", "y"], "server@1")

        config = hr.ReprogramConfig(program="none", mapping=hr.LinearConfig(on="classes"), labels=["o", "e"])
        asked, tokenizer = base([" o", " e"])
        model = hr.get_reprogram_model(asked, config, processing_class=tokenizer)
        model.fit_mapping(ROWS)
        model.save_pretrained(tmp_path)
        same, other = base([" o", " e"])[0], base([" e", " the"])[0]
        hr.AutoReprogramModel.from_pretrained(tmp_path, base_model=same, processing_class=tokenizer)
        with pytest.raises(ArtefactError, match=r"for x, y \(words ' o', ' e'\) is not .*\(words ' e', ' the'\)"):
            hr.AutoReprogramModel.from_pretrained(tmp_path, base_model=other, processing_class=tokenizer)

    def test_a_path_of_its_own_goes_with_a_kind(self, server: Server) -> None:
        ask = endpoint(server, url=server.url.replace("/v1/completions", "/ask?version=2"), kind="openai")
        assert len(ask(["foo"])[0]) == 2

    def test_a_class_for_each_word(self, server: Server) -> None:
        with pytest.raises(ConfigError, match=r"3 classes \['o', 'e', 'x'\] of an endpoint with 2 words"):
            hr.remote_text(endpoint(server), ["o", "e", "x"], "server@1")

    @pytest.mark.parametrize("together", [1, 4])
    def test_a_failure_loses_no_answer(self, server: Server, tmp_path: Path, together: int) -> None:
        texts = [f"t{i}" for i in range(40)]
        server.troubles = [*[None] * 20, (400, {})]
        base, _ = hr.remote_text(endpoint(server, together=together), ["o", "e"], "server@1", cache=tmp_path / "a.db")
        channel = base.model.channel
        with pytest.raises(BaseModelError, match="HTTP 400") as caught:
            channel(texts)
        before = [post["prompt"] for post in server.posts]
        assert 20 < len(before) <= (21 if together == 1 else 40) and channel.sent == len(before)
        assert f"the {len(before) - 1} answers in" in str(caught.value)
        base, _ = hr.remote_text(endpoint(server, together=together), ["o", "e"], "server@1", cache=tmp_path / "a.db")
        base.model.channel(texts)
        after = [post["prompt"] for post in server.posts][len(before) :]
        failed = set(before) & set(after)
        assert len(failed) == 1 and str(failed.pop()) in str(caught.value)
        assert {*before, *after} == {*texts} and len(before) + len(after) == 41

    def test_an_interrupt_loses_no_answer(self, server: Server, tmp_path: Path, ctrl_c: None) -> None:
        texts = [f"t{i}" for i in range(40)]
        server.troubles = [*[None] * 20, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)]
        base, _ = hr.remote_text(endpoint(server), ["o", "e"], "server@1", cache=tmp_path / "a.db")
        with pytest.raises(KeyboardInterrupt):
            base.model.channel(texts)
        assert 20 < base.model.channel.sent == len(server.posts)  # what was on its way has come
        base, _ = hr.remote_text(endpoint(server), ["o", "e"], "server@1", cache=tmp_path / "a.db")
        base.model.channel(texts)
        assert sorted(post["prompt"] for post in server.posts) == sorted(texts)

    def test_a_kill_loses_no_answer(self, server: Server, tmp_path: Path) -> None:
        texts, child = [f"t{i}" for i in range(40)], []
        server.troubles = [*[None] * 20, lambda: os.kill(child[0], signal.SIGKILL)]

        def run() -> None:
            ask = endpoint(server, together=1)
            hr.remote_text(ask, ["o", "e"], "server@1", cache=tmp_path / "a.db")[0].model.channel(texts)

        child.append(os.fork())
        if child[0] == 0:
            try:
                run()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == -signal.SIGKILL
        run()
        # The one that had no answer yet when the kill came is asked again, and no other.
        assert [post["prompt"] for post in server.posts] == [*texts[:21], *texts[20:]]

    def test_all_wait_where_one_is_told_to(self, server: Server) -> None:
        server.troubles = [(429, {"Retry-After": "0.8"}), *[lambda: time.sleep(0.2)] * 3]
        endpoint(server, together=4, timeout=9.0)([f"t{i}" for i in range(20)])
        waited = np.array(server.times) - server.times[0]
        assert (waited < 0.7).sum() <= 4  # it, and those that were on their way
        assert len(waited) == 21

    def test_from_rows_to_a_program(self, server: Server, tmp_path: Path) -> None:
        """End to end, through failures; and once more from the cache without a query."""
        server.troubles = [None, (503, {}), b"half", "stall", (429, {"Retry-After": "0.05"}), None, (500, {})]
        for sent in (2 + len(ROWS) + 1, 0):  # the wrapped model is probed with two texts, and one row is asked twice
            base, tokenizer = hr.remote_text(endpoint(server), ["o", "e"], "server@1", cache=tmp_path / "a.db")
            config = hr.ReprogramConfig(
                program={"type": "none", "template": "{text}"},
                mapping=hr.LinearConfig(on="classes"),
                labels=["o", "e"],
            )
            model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
            outcome = hr.fit_blackbox(model, ROWS, validation=ROWS)
            assert outcome.chosen == "map only" and outcome.validation == 1.0
            assert base.model.channel.sent == sent

    def test_from_rows_to_words(self, server: Server, tmp_path: Path) -> None:
        """A word is searched through failures and limits, in two runs; the program is saved, and loaded again."""
        server.scores = lambda text: scores(text if text.startswith("x") else "")  # without it, nothing is heard
        program = {"type": "words", "template": "{prompt:1} {text}", "words": list("abcx")}
        config = hr.ReprogramConfig(program=program, mapping=hr.LinearConfig(on="classes"), labels=["o", "e"])

        def fitted(**channel: Any) -> tuple[Any, Any, hr.ReprogramModel, Any]:
            ask = endpoint(server, per_minute=6000)
            base, tokenizer = hr.remote_text(ask, ["o", "e"], "server@1", cache=tmp_path / "a.db", **channel)
            model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
            found = hr.fit_blackbox(model, ROWS, ROWS, evaluations=60, optimizer="one_plus_one")
            return base, tokenizer, model, found

        server.troubles = [None, (503, {}), b"half", "stall", (429, {"Retry-After": "0.1"}), None, (500, {})]
        server.troubles += [*[None] * 8, (400, {})]
        with pytest.raises(BaseModelError, match="HTTP 400.*asks for the others alone"):
            fitted()
        base, tokenizer, model, found = fitted(most=40)
        assert (found.chosen, found.validation, found.floored) == ("program", 1.0, 0.0)
        # Four words before six rows at most; the probe, what failed, and what is asked twice.
        assert len(server.posts) <= 4 * len(ROWS) + 2 + 6 + 1
        model.save_pretrained(tmp_path / "saved")
        sent = len(server.posts)
        again = hr.AutoReprogramModel.from_pretrained(tmp_path / "saved", base_model=base, processing_class=tokenizer)
        assert again.explain()["program"] == model.explain()["program"]
        assert again.evaluate(ROWS)["accuracy"] == 1.0 and len(server.posts) == sent
