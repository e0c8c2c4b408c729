"""A language model behind HTTP, asked for the log-probabilities of label words: OpenAI's completions, or
text-generation-inference.

It waits where it is told to, tries again where that may help, and believes no answer that does not hold together.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib import error, parse, request

from ..errors import BaseModelError, BudgetError, ConfigError, first_line
from ._http import cut, seconds, shown, whole


logger = logging.getLogger(__name__)

AGAIN = {408, 425, 429, 500, 502, 503, 504}
LONGEST = 60.0  # seconds that are waited at most: who is told to wait longer is told so
LONG = 5.0  # seconds from which a wait is spoken of
DAY = 86_400  # seconds
ENOUGH = 8  # texts in one call, of which at least one must be answered by a word
Keep = Callable[[int, list[float], int], None]  # number of the text, its answer, cells of it that were not told


class Endpoint:
    """Texts to the log-probabilities of some words as the next token, (texts, words).

    A model tells its likeliest tokens only. A word that is not among them has at most the probability of the least of
    these: it counts as one nat below it (`floored` is the share of such cells). Where none of the words is told for
    any of eight texts or more in one call, the answers are refused.

    Args:
        url: of completions (`.../v1/completions`), or `.../generate` of text-generation-inference.
        words: label words, each one token of the model, as it is written there: mostly with the space before it.
        model: its name, where the endpoint serves several.
        kind: `openai` or `tgi`; None tells by the end of the URL's path.
        top: likeliest tokens that are asked for; many endpoints give 5 at most.
        key: an environment variable with a token for the header; never the token itself.
        timeout: seconds for one answer.
        retries: times that a query is sent again, after 1, 2, 4 ... seconds or what Retry-After says, for which no
            other query is sent either. More than 60 s are not waited for, nor a server that refuses the first
            connection.
        per_minute: queries that are sent in a minute at most.
        together: queries at once.
        pause: the first of these waits, in seconds.

    Attributes:
        sent: texts that were sent, each counted once however often it was tried.

    Raises:
        ConfigError: no URL of completions, no words, an unknown kind, an environment variable that is not set, a
            number that cannot be meant.

    Example:

        ask = Endpoint("http://127.0.0.1:8000/v1/completions", [" bad", " good"], model="smollm2")
    """

    def __init__(
        self,
        url: str,
        words: Sequence[str],
        model: str | None = None,
        kind: str | None = None,
        top: int = 20,
        key: str | None = None,
        timeout: float = 30.0,
        retries: int = 4,
        per_minute: float | None = None,
        together: int = 4,
        pause: float = 1.0,
    ) -> None:
        kind = _kind(url, kind)
        if isinstance(words, str):
            raise ConfigError("Endpoint(words)", f"{words!r}, one text", "a list of words", f"words=[{words!r}, ...]")
        if len(words) < 2 or len(set(words)) < len(words):
            raise ConfigError("Endpoint(words)", f"{list(words)!r}", "at least two words, each once")
        _within("top", top, 1, whole=True)
        _within("together", together, 1, 8, whole=True)
        _within("retries", retries, 0, whole=True)
        _within("timeout", timeout, 1e-3, DAY)
        _within("pause", pause, 0, DAY)
        if per_minute is not None:
            _within("per_minute", per_minute, 1e-3, fix="per_minute=None sets no limit")
        if key is not None and key not in os.environ:
            # It may be the token itself: only what looks like a variable's name is shown.
            named = (
                key if key.isupper() and key.isidentifier() else f"variable of the name given ({len(key)} characters)"
            )
            raise ConfigError("Endpoint(key)", f"the environment has no {named}", "a variable that holds the token")
        self.url, self.words, self.model, self.kind, self.top, self.key = url, list(words), model, kind, top, key
        self.shown = shown(url)
        self.timeout, self.retries, self.together, self.pause = timeout, retries, together, pause
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._lock, self._next, self._seen, self._floored = threading.Lock(), 0.0, 0, 0
        self._warned, self.sent = False, 0

    @property
    def identity(self) -> dict[str, str]:
        """What changes its answers, by name: who keeps them must not take them for those of another.

        The URL is none of it, nor is how long is waited: a server may move.
        """
        return {"list of words": json.dumps(self.words), "model": self.model or "", "top": str(self.top)}

    @property
    def floored(self) -> float:
        """Share of log-probabilities that were not told."""
        return self._floored / max(self._seen, 1)

    def __call__(self, texts: Sequence[str], until: float = math.inf, keep: Keep | None = None) -> list[list[float]]:
        """One query for each text; the answers in their order.

        Args:
            texts: what is asked.
            until: the reading of `time.monotonic` from which on nothing is sent or waited for.
            keep: is given each answer as it comes, from several threads. After a failure, or an interrupt, nothing
                more is sent, and what is on its way is still waited for and given.

        Raises:
            BaseModelError: an endpoint that is down, refuses, or answers something else, after all retries; or that
                told none of the words.
            BudgetError: the time is over.
        """
        halt = threading.Event()

        def one(i: int, text: str) -> tuple[list[float], int] | None:
            if halt.is_set():
                return None
            try:
                found = self._answer(text, until)
                if keep is not None:
                    keep(i, *found)
                return found
            except BaseException:
                halt.set()
                raise

        with ThreadPoolExecutor(self.together) as pool:
            try:
                found = list(pool.map(one, range(len(texts)), texts))
            finally:
                halt.set()
        if all(floored == len(self.words) for _, floored in found):
            self.tells_nothing(len(texts))
        return [scores for scores, _ in found]

    def tells_nothing(self, count: int) -> None:
        """Refuse many texts for none of which a word was told: a map of such answers learns noise."""
        what = f"{self.shown} tells none of the words {self.words!r} among its {self.top} likeliest tokens"
        fix = f"a larger top= than {self.top}, where the endpoint gives it, or other words"
        if count >= ENOUGH:
            expected = "a word's log-probability for some of them: mostly it is written with the space before it"
            raise BaseModelError("endpoint", f"{what}, for any of {count} texts", expected, fix)
        if not self._warned:
            logger.warning("%s: these answers say nothing. Words are mostly written with the space before them.", what)
        self._warned = True

    def _answer(self, text: str, until: float) -> tuple[list[float], int]:
        """(log-probabilities of the words, how many of them were not told)."""
        told = self._tokens(self._posted(text, until))
        least = min(told.values()) - 1.0
        found = [_of_word(told, word) for word in self.words]
        floored = sum(value is None for value in found)
        with self._lock:
            self._seen += len(found)
            self._floored += floored
        return [least if value is None else value for value in found], floored

    # Sending

    def _request(self, text: str) -> request.Request:
        if self.kind == "tgi":
            options = {"max_new_tokens": 1, "details": True, "top_n_tokens": self.top, "do_sample": False}
            body: dict[str, Any] = {"inputs": text, "parameters": options}
        else:
            body = {"prompt": text, "max_tokens": 1, "logprobs": self.top, "temperature": 0}
            body |= {"model": self.model} if self.model else {}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {os.environ[self.key]}"} if self.key else {}
        return request.Request(self.url, json.dumps(body).encode(), headers)

    def _posted(self, text: str, until: float) -> Any:
        """The JSON of an answer."""
        asked, wait = self._request(text), self.pause
        for tries in range(1, self.retries + 2):
            self._in_turn(until)
            with self._lock:
                self.sent += tries == 1
            timeout = min(self.timeout, until - time.monotonic())
            try:
                if timeout <= 0:
                    raise TimeoutError
                with request.urlopen(asked, timeout=timeout) as answer:
                    return json.loads(whole(answer, time.monotonic() + timeout))
            except (OSError, HTTPException, ValueError) as problem:  # ValueError: no JSON, or no text at all
                failure = self._failure(problem, timeout)
            self._hold(failure.told or 0.0)
            what = f"{self.shown}, asked {cut(repr(text))}, gave {failure.why}"
            if time.monotonic() >= until:
                self._wait(0.0, what, until)
            if tries > self.retries or not failure.again or (failure.told or 0.0) > LONGEST:
                what += f", {tries} times" if tries > 1 else ""
                raise BaseModelError("endpoint", what, "an answer", failure.fix)
            pause = min(wait * (1.0 + 0.1 * random.random()), LONGEST) if failure.told is None else failure.told
            self._wait(pause, what, until)
            wait *= 2

    def _wait(self, pause: float, what: str, until: float) -> None:
        """Sleep before the next try, or say that the time does not last until then."""
        left = until - time.monotonic()
        if pause >= left:
            why = f"the next try is {pause:.1f} s away and {left:.1f} s are left" if left > 0 else "the time is over"
            raise BudgetError("budget", f"{what}; {why}", "an answer within its seconds", "more seconds")
        logger.log(logging.WARNING if pause > LONG else logging.INFO, "%s; again in %.1f s", what, pause)
        time.sleep(pause)

    def _failure(self, problem: Exception, timeout: float) -> _Failure:
        """What a try that failed within `timeout` seconds means, and what helps."""
        reason = getattr(problem, "reason", problem)  # urllib wraps what happened below it
        if isinstance(problem, error.HTTPError):
            return self._status(problem)
        if isinstance(reason, TimeoutError):
            fix = f"timeout=N waits longer than {self.timeout:g} s, retries=N tries more often"
            return _Failure(f"no answer within {max(timeout, 0.0):.3g} s", fix)
        if isinstance(reason, ConnectionRefusedError | socket.gaierror):
            # One that answered before is starting anew; one that never did is mostly a wrong address.
            fix = "start the server, or mend host and port of the URL"
            return _Failure(f"no connection ({first_line(reason)})", fix, again=self._seen > 0)
        if isinstance(problem, ValueError):
            fix = "the URL of completions that answer in JSON, not of a page"
            return _Failure(f"no JSON ({cut(getattr(problem, 'doc', '').strip()) or first_line(problem)})", fix)
        fix = "look whether the server is still up, and whether the URL begins rightly with http or https"
        return _Failure(f"a broken connection ({first_line(reason)})", fix)

    def _status(self, problem: error.HTTPError) -> _Failure:
        """What an HTTP status means, with the start of what came with it."""
        try:
            body = cut(problem.read(1000).decode(errors="replace").strip(), 200)
        except (OSError, HTTPException):
            body = ""
        why = f"HTTP {problem.code} {problem.reason}" + (f" ({body})" if body else "")
        told = seconds(problem.headers.get("Retry-After"))
        if told is not None and told > LONGEST:
            fix = f"come back in {told:,.0f} s, or send fewer with per_minute=N"
            return _Failure(f"{why}, and says to wait {told:,.0f} s, which is more than {LONGEST:g} s", fix, told=told)
        fix = "wait, or look into the server's log"
        if problem.code in (401, 403):
            have = f"a valid token in the environment variable {self.key}"
            fix = have if self.key else "key=ENV_VARIABLE, the name of an environment variable that holds the token"
        elif problem.code == 404:
            fix = "mend the path of the URL, or model=NAME as the server lists it"
        elif problem.code == 429:
            fix = "send fewer with per_minute=N, or together=1"
        elif problem.code < 500:
            fix = "mend what the server complains of: mostly model=NAME, a smaller top=N, or kind="
        return _Failure(why, fix, again=problem.code in AGAIN, told=told)

    def _hold(self, told: float) -> None:
        """Send nothing for as long as the server said to one query: it means whoever asks."""
        if 0.0 < told <= LONGEST:  # more is not waited for: the query that was told so fails
            with self._lock:
                self._next = max(self._next, time.monotonic() + told)

    def _in_turn(self, until: float) -> None:
        """Wait for this query's turn, which moves where the server says to wait meanwhile."""
        while True:
            with self._lock:
                now = time.monotonic()
                turn = max(now, self._next)
                if turn == now < until:
                    self._next = now + self.gap
                    return
            if turn >= until:
                what, fix = "the time is over before the next query's turn", "more seconds, or a larger per_minute="
                raise BudgetError("budget", what, "an answer within its seconds", fix)
            time.sleep(turn - now)

    # Reading

    def _tokens(self, answer: Any) -> dict[str, float]:
        """Log-probabilities by token."""
        try:
            if self.kind == "tgi":
                answer = answer[0] if isinstance(answer, list) else answer
                told = {t["text"]: t["logprob"] for t in answer["details"]["top_tokens"][0]}
            else:
                told = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            told = {str(token): float(value) for token, value in told.items()}
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as problem:
            what = f"{self.shown} answered {json.dumps(answer)[:120]}"
            expected = "log-probabilities of the likeliest next tokens"
            raise BaseModelError(
                "endpoint", what, expected, "an endpoint that gives them, or another kind"
            ) from problem
        if not told or not all(math.isfinite(value) and value <= 1e-3 for value in told.values()):
            what = f"{self.shown} answered {json.dumps(told)[:120]}"
            raise BaseModelError("endpoint", what, "log-probabilities: finite, at most 0")
        return told


@dataclass(frozen=True)
class _Failure:
    """A try that failed: why, what helps, whether another try may, and the seconds that the server says to wait."""

    why: str
    fix: str
    again: bool = True
    told: float | None = None


def _within(
    name: str, value: Any, low: float, high: float = math.inf, whole: bool = False, fix: str | None = None
) -> None:
    """Raise a ConfigError where an option is no number of its range."""
    kind = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
        most = f", at most {high:g}" if high < math.inf else ""
        expected = f"a {'whole ' if whole else ''}number from {low:g}{most}"
        raise ConfigError(f"Endpoint({name})", f"{value!r}", expected, fix)


def _kind(url: str, kind: str | None) -> str:
    """The kind of endpoint at a URL.

    Raises:
        ConfigError: no URL of completions.
    """
    try:
        parts = parse.urlsplit(url)
        _ = parts.port  # read here, since it is looked at when it is read
    except ValueError as problem:
        raise ConfigError(
            "Endpoint(url)", f"{shown(url)!r} ({first_line(problem)})", "http://HOST:PORT/PATH"
        ) from problem
    path = parts.path.rstrip("/")
    if "@" in parts.netloc:
        expected = "a host alone, as errors and logs show it"
        raise ConfigError("Endpoint(url)", "a name or a password before the host", expected, "key=ENV_VARIABLE")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        fix = None if "://" in url else f"http://{url}"
        raise ConfigError("Endpoint(url)", f"{shown(url)!r}", "http:// or https:// before a host and a path", fix)
    if path.endswith("/chat/completions"):
        fix = url.rstrip("/").removesuffix("/chat/completions") + "/completions"
        raise ConfigError(
            "Endpoint(url)", f"{shown(url)!r}, which takes messages", "completions, which take a text", fix
        )
    if kind is None:
        ends = {"openai": "/completions", "tgi": "/generate"}
        kind = next((name for name, end in ends.items() if path.endswith(end)), None)
        if kind is None:
            fix = f"{parts.scheme}://{parts.netloc}/v1/completions, or kind='openai' if it takes the same"
            raise ConfigError("Endpoint(url)", f"{shown(url)!r}", "a path that ends in /completions or /generate", fix)
    if kind not in ("openai", "tgi"):
        raise ConfigError("Endpoint(kind)", f"{kind!r}", "openai or tgi")
    return kind


def _of_word(told: dict[str, float], word: str) -> float | None:
    """The log-probability of a word: as it is written, else however it is spaced; None where it is not told."""
    if word in told:
        return told[word]
    alike = [value for token, value in told.items() if token.strip() == word.strip()]
    return math.log(sum(math.exp(value) for value in alike)) if alike else None
