"""A model behind HTTP that fails, stalls, limits, babbles; and what the user is told of it."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hf_reprogram as hr
from hf_reprogram.errors import BaseModelError, BudgetError, ConfigError


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
        if trouble == "stall":
            time.sleep(0.6)
        told = scores(body.get("prompt", body.get("inputs")))
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
            ([(400, {}, b"logprobs: at most 5")], "HTTP 400.*at most 5.*to the prompt 'foo'.*smaller top=N", 1),
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
        monkeypatch.setattr("hf_reprogram.sources.endpoint.time.sleep", slept.append)
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
            ({"together": 9}, "at most 8"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be_meant(self, server: Server, more: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            endpoint(server, **more)

    def test_a_path_of_its_own_goes_with_a_kind(self, server: Server) -> None:
        ask = endpoint(server, url=server.url.replace("/v1/completions", "/ask?version=2"), kind="openai")
        assert len(ask(["foo"])[0]) == 2

    def test_a_class_for_each_word(self, server: Server) -> None:
        with pytest.raises(ConfigError, match=r"3 classes \['o', 'e', 'x'\] of an endpoint with 2 words"):
            hr.remote_text(endpoint(server), ["o", "e", "x"], "server@1")

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
