"""Models that are asked: each question once, budgets that hold, an endpoint that fails, stalls, limits, babbles."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hf_reprogram as hr
from hf_reprogram.backbone.probe import probe
from hf_reprogram.backbone.text import TextBackbone
from hf_reprogram.errors import ArtefactError, BaseModelError, BudgetError, ConfigError, UsageError
from hf_reprogram.sources.channel import Channel
from hf_reprogram.testing import AUDIO_ROWS, tiny


def letters(texts: Sequence[str]) -> list[list[float]]:
    """Scores of a text: how many o, how many e, a tenth of its length."""
    return [[float(t.count("o")), float(t.count("e")), 0.1 * len(t)] for t in texts]


ROWS = [
    {"text": text, "label": label}
    for text, label in (("foo", "o"), ("eel", "e"), ("wood", "o"), ("bee", "e"), ("oboe", "o"), ("teepee", "e"))
]
CLASSES = ["o", "e", "long"]


class Asked:
    """Remembers what it was asked."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.seen: list[Any] = []
        self.fail_after = fail_after

    def __call__(self, inputs: Sequence[Any]) -> list[list[float]]:
        self.seen += inputs
        if self.fail_after is not None and len(self.seen) > self.fail_after:
            raise KeyboardInterrupt
        return letters(inputs)


class TestChannel:
    """Dedup, cache, budget."""

    def test_what_was_asked_costs_nothing(self, tmp_path: Path) -> None:
        ask = Asked()
        channel = Channel(ask, "letters", 3, cache=tmp_path / "a.db")
        first = channel(["foo", "bee", "foo"])
        assert ask.seen == ["foo", "bee"] and (channel.wanted, channel.sent) == (3, 2)
        np.testing.assert_allclose(first, letters(["foo", "bee", "foo"]), rtol=1e-6)
        again = Channel(Asked(fail_after=0), "letters", 3, cache=tmp_path / "a.db")
        np.testing.assert_array_equal(again(["bee", "foo"]), first[[1, 0]])
        assert again.sent == 0

    def test_a_wave_and_a_text_of_the_same_bytes_are_two_questions(self) -> None:
        channel = Channel(lambda given: [[float(isinstance(x, str))] for x in given], "kinds", 1)
        wave = np.frombuffer(b"abcd", dtype=np.float32)
        assert channel(["abcd"]).item() == 1.0 and channel([wave]).item() == 0.0

    def test_a_kill_loses_no_answer(self, tmp_path: Path) -> None:
        killed = Asked(fail_after=4)
        channel = Channel(killed, "letters", 3, cache=tmp_path / "a.db", together=2)
        with pytest.raises(KeyboardInterrupt):
            channel(list("abcdefgh"))
        ask = Asked()
        Channel(ask, "letters", 3, cache=tmp_path / "a.db", together=2)(list("abcdefgh"))
        assert ask.seen == list("efgh")

    def test_nothing_is_sent_beyond_the_budget(self) -> None:
        ask = Asked()
        channel = Channel(ask, "letters", 3, most=3)
        channel(["a", "b"])
        with pytest.raises(BudgetError, match="2 queries sent, 2 more are needed.*at most 3"):
            channel(["a", "c", "d"])
        assert ask.seen == ["a", "b"]
        channel(["a", "b", "c"])
        with pytest.raises(BudgetError, match="time is over"):
            Channel(ask, "letters", 3, seconds=0.0)(["x"])

    @pytest.mark.parametrize(
        ("change", "says"),
        [({"source": "other"}, "another source: 'letters' is not 'other'"), ({"outputs": 2}, "another outputs")],
    )
    def test_answers_of_another_source(self, tmp_path: Path, change: dict[str, Any], says: str) -> None:
        given = {"source": "letters", "outputs": 3, "cache": tmp_path / "a.db"}
        Channel(letters, **given)(["a"])
        with pytest.raises(UsageError, match=says):
            Channel(letters, **{**given, **change})
        assert Channel(letters, **{**given, **change}, rebuild=True).known == {}

    def test_a_file_that_is_none_of_ours_and_a_place_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(b"no data base at all, but long enough to look at" * 40)
        for path in (tmp_path / "a.db", tmp_path / "no" / "a.db"):
            with pytest.raises(UsageError, match="could not be used.*rebuild=True"):
                Channel(letters, "letters", 3, cache=path)
        assert (tmp_path / "a.db").read_bytes().startswith(b"no data base")

    def test_a_full_disk(self, tmp_path: Path) -> None:
        channel = Channel(letters, "letters", 3, cache=tmp_path / "a.db")
        channel(["a"])
        channel.file.execute("pragma max_page_count = 1")  # SQLite's own way to say that no room is left
        with pytest.raises(UsageError, match="full.*answers so far are whole"):
            for n in range(0, 20_000, 2000):
                channel([f"{i}" for i in range(n, n + 2000)])
        channel.file.close()
        assert Channel(Asked(fail_after=0), "letters", 3, cache=tmp_path / "a.db")(["a"]).shape == (1, 3)

    @pytest.mark.parametrize(
        "answer", [[[1.0, 2.0]], [[1.0, float("nan"), 0.0]], [3], ["o"], [[1.0, 2.0, 3.0]] * 2, None], ids=str
    )
    def test_answers_that_are_none(self, answer: Any) -> None:
        with pytest.raises(BaseModelError, match=r"ask\(inputs\).*\(1, 3\) finite scores"):
            Channel(lambda texts: answer, "letters", 3)(["a"])

    def test_numbers_of_classes(self) -> None:
        assert Channel(lambda texts: [2, 0], "firsts", 3)(["a", "b"]).tolist() == [[0, 0, 1], [1, 0, 0]]

    def test_noise_is_asked_for_once(self, tmp_path: Path) -> None:
        steps = iter([1.0, 1.5])
        channel = Channel(lambda texts: [[next(steps), 0.0] for _ in texts], "noisy", 2, cache=tmp_path / "a.db")
        assert channel.noise("a") == pytest.approx(0.5) and channel.sent == 2
        assert Channel(letters, "noisy", 2, cache=tmp_path / "a.db").noise("a") == pytest.approx(0.5)


class TestModels:
    """To the library they are classifiers."""

    def model(self, ask: Any = letters, mapping: Any = None, program: Any = None, **channel: Any) -> hr.ReprogramModel:
        base, tokenizer = hr.remote_text(ask, CLASSES, "letters@1", **channel)
        config = hr.ReprogramConfig(
            program=program or {"type": "none", "template": "Ö {text} !"},
            mapping=mapping or hr.LinearConfig(on="classes"),
            labels=["o", "e"],
        )
        return hr.get_reprogram_model(base, config, processing_class=tokenizer)

    def test_texts_come_as_the_template_lays_them_out(self) -> None:
        ask = Asked()
        model = self.model(ask)
        ask.seen.clear()
        model.fit_mapping(ROWS)
        assert sorted(ask.seen) == sorted(f"Ö {row['text']} !" for row in ROWS)
        assert model.evaluate(ROWS)["accuracy"] == 1.0
        assert len(ask.seen) == len(ROWS)  # known by then

    @pytest.mark.parametrize("mapping", ["labels", "bayesian", "prototype", "auto"])
    def test_maps_of_classes(self, mapping: str) -> None:
        model = self.model(mapping=mapping)
        model.fit_mapping(ROWS)
        assert model.evaluate(ROWS)["accuracy"] >= 0.8

    def test_saved_and_loaded(self, tmp_path: Path) -> None:
        model = self.model()
        model.fit_mapping(ROWS)
        model.save_pretrained(tmp_path)
        base, tokenizer = hr.remote_text(letters, CLASSES, "letters@1")
        again = hr.ReprogramModel.from_pretrained(base, tmp_path, processing_class=tokenizer)
        assert torch.equal(again.score(ROWS), model.score(ROWS))
        other, tokenizer = hr.remote_text(letters, CLASSES, "letters@2")
        with pytest.raises(hr.ArtefactError, match="is not .letters@2"):
            hr.ReprogramModel.from_pretrained(other, tmp_path, processing_class=tokenizer)

    def test_a_program_of_other_answers_or_of_another_order_is_refused(self, tmp_path: Path) -> None:
        base, tokenizer = hr.remote_text(letters, CLASSES, "letters@1")
        config = hr.ReprogramConfig(program="none", mapping=hr.LinearConfig(on="classes"), labels=["e", "o"])
        model = hr.get_reprogram_model(base, config, processing_class=tokenizer)
        model.fit_mapping(ROWS)
        model.save_pretrained(tmp_path)
        for classes, source in ((["e", "o", "long"], "letters@1"), (CLASSES, "letters@2")):
            other, again = hr.remote_text(letters, classes, source)
            with pytest.raises(ArtefactError, match=f"'letters@1' for o, e, long is not '{source}' for {classes[0]}"):
                hr.AutoReprogramModel.from_pretrained(tmp_path, base_model=other, processing_class=again)

    def test_answers_for_classes_in_another_order_are_not_believed(self, tmp_path: Path) -> None:
        base, _ = hr.remote_text(letters, CLASSES, "letters", cache=tmp_path / "answers.db")
        base.model.channel(["foo"])
        with pytest.raises(UsageError, match="'letters' for o, e, long"):
            hr.remote_text(letters, ["e", "o", "long"], "letters", cache=tmp_path / "answers.db")[0].model.channel(
                ["foo"]
            )

    def test_sounds(self) -> None:
        base, extractor = hr.remote_audio(lambda waves: [[w.mean(), w.std()] for w in waves], ["mean", "std"], "stats")
        config = hr.ReprogramConfig(
            program="waveform", mapping=hr.LinearConfig(on="classes"), labels=["negative", "positive"]
        )
        model = hr.get_reprogram_model(base, config, processing_class=extractor)
        model.fit_mapping(AUDIO_ROWS)
        assert len(model.predict([row["audio"]["array"] for row in AUDIO_ROWS][:2] and AUDIO_ROWS)) == len(AUDIO_ROWS)

    def test_its_row_of_data_is_proved(self) -> None:
        base, _ = hr.remote_text(letters, CLASSES, "letters")
        assert max(probe(TextBackbone(base)).values()) < 1e-5

    def test_no_gradient_and_no_vectors(self) -> None:
        model = self.model(program={"type": "none", "template": "{text}"})
        model.fit_mapping(ROWS)
        with pytest.raises(BaseModelError, match="no tokens"):
            self.model(program={"type": "prompt", "template": "{prompt:2} {text}", "init": "normal"}).fit_mapping(ROWS)
        base, _ = hr.remote_audio(lambda waves: [[0.0, 1.0]] * len(waves), ["a", "b"], "nothing")
        with pytest.raises(UsageError, match="fit_blackbox"):
            base(torch.zeros(1, 100, requires_grad=True))

    def test_a_tokenizer_that_changes_texts(self) -> None:
        with pytest.raises(BaseModelError, match="keeps every character"):
            hr.remote_text(letters, CLASSES, "letters", tokenizer=tiny("bert")[1])


# The endpoint --------------------------------------------------------------------------------------------------------


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
            ([(500, {})] * 9, "HTTP 500", 3),
            ([(401, {})] * 9, "HTTP 401", 1),  # trying again would not help
            ([b"<html>"] * 9, "no JSON", 3),
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
        with pytest.raises(BaseModelError, match="refused"):
            hr.Endpoint("http://127.0.0.1:9/v1/completions", [" o", " e"], retries=1, pause=0.01)(["foo"])

    def test_words_that_are_not_told(self, server: Server) -> None:
        told = {" the": -0.5, "o ": -1.0, " o": -2.0}
        server.troubles = [json.dumps({"choices": [{"logprobs": {"top_logprobs": [told]}}]}).encode()]
        ask = endpoint(server, words=[" o", " e", "o"])
        # As written; one nat below the least; not as written: both spellings together.
        assert ask(["foo"])[0] == pytest.approx([-2.0, -3.0, math.log(math.exp(-1.0) + math.exp(-2.0))])
        assert ask.floored == pytest.approx(1 / 3)

    def test_words_that_are_never_told_are_spoken_of(self, server: Server, caplog: pytest.LogCaptureFixture) -> None:
        endpoint(server)(["foo"])
        assert not caplog.records
        endpoint(server, words=["awful", "nice"])(["foo"])
        assert "none of the words ['awful', 'nice']" in caplog.text

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
            ({"url": "http://x/v1/chat/completions"}, "Fix: http://x/v1/completions"),
            ({"kind": "soap"}, "openai or tgi"),
            ({"together": 9}, "at most 8"),
        ],
        ids=str,
    )
    def test_options_that_cannot_be_meant(self, server: Server, more: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            endpoint(server, **more)

    def test_from_rows_to_a_program(self, server: Server, tmp_path: Path) -> None:
        """End to end, through failures; and once more from the cache without a query."""
        server.troubles = [None, (503, {}), b"half", "stall", (429, {"Retry-After": "0.05"}), None, (500, {})]
        for sent in (len(ROWS) + 2, 0):  # the wrapped model is probed with two texts
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
