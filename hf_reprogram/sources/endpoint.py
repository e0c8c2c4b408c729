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
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any
from urllib import error, request

from ..errors import BaseModelError, ConfigError, first_line


logger = logging.getLogger(__name__)

AGAIN = {408, 425, 429, 500, 502, 503, 504}
LONGEST = 60.0  # seconds that are waited at most, whatever is asked for


class Endpoint:
    """Texts to the log-probabilities of some words as the next token, (texts, words).

    A model tells its likeliest tokens only. A word that is not among them has at most the probability of the least of
    these: it counts as one nat below it (`floored` is the share of such cells).

    Args:
        url: of completions (`.../v1/completions`), or `.../generate` of text-generation-inference.
        words: label words, each one token of the model, as it is written there: mostly with the space before it.
        model: its name, where the endpoint serves several.
        kind: `openai` or `tgi`; None tells by the end of the URL.
        top: likeliest tokens that are asked for; many endpoints give 5 at most.
        key: an environment variable with a token for the header; never the token itself.
        timeout: seconds for one answer.
        retries: times that a query is sent again, after 1, 2, 4 ... seconds or what Retry-After says.
        per_minute: queries that are sent in a minute at most.
        together: queries at once.
        pause: the first of these waits, in seconds.

    Raises:
        ConfigError: no words, an unknown kind, an environment variable that is not set.

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
        kind = kind or ("tgi" if url.rstrip("/").endswith("/generate") else "openai")
        if kind not in ("openai", "tgi"):
            raise ConfigError("Endpoint(kind)", f"{kind!r}", "openai or tgi")
        if len(words) < 2 or len(set(words)) < len(words):
            raise ConfigError("Endpoint(words)", f"{list(words)!r}", "at least two words, each once")
        if url.rstrip("/").endswith("/chat/completions"):
            fix = url.rstrip("/").removesuffix("/chat/completions") + "/completions"
            raise ConfigError("Endpoint(url)", f"{url!r}, which takes messages", "completions, which take a text", fix)
        if top < 1 or not 1 <= together <= 8:
            raise ConfigError("Endpoint(top, together)", f"{top}, {together}", "from 1; together at most 8")
        if key is not None and key not in os.environ:
            raise ConfigError("Endpoint(key)", f"the environment has no {key}", "a variable that holds the token")
        self.url, self.words, self.model, self.kind, self.top, self.key = url, list(words), model, kind, top, key
        self.timeout, self.retries, self.together, self.pause = timeout, retries, together, pause
        self.gap = 60.0 / per_minute if per_minute else 0.0
        self._lock, self._next, self._seen, self._floored = threading.Lock(), 0.0, 0, 0

    @property
    def floored(self) -> float:
        """Share of log-probabilities that were not told."""
        return self._floored / max(self._seen, 1)

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """One query for each text; the answers in their order.

        Raises:
            BaseModelError: an endpoint that is down, refuses, or answers something else, after all retries.
        """
        before = self._floored, self._seen
        with ThreadPoolExecutor(self.together) as pool:
            found = list(pool.map(self._answer, texts))
        floored, seen = self._floored - before[0], self._seen - before[1]
        if floored == seen:
            logger.warning(
                "%s tells none of the words %r among its %d likeliest tokens: these answers say nothing. Words are "
                "mostly written with the space before them.", self.url, self.words, self.top,
            )  # fmt: skip
        return found

    def _answer(self, text: str) -> list[float]:
        told = self._tokens(self._posted(text))
        least = min(told.values()) - 1.0
        found = [_of_word(told, word) for word in self.words]
        with self._lock:
            self._seen += len(found)
            self._floored += sum(value is None for value in found)
        return [least if value is None else value for value in found]

    # Sending

    def _posted(self, text: str) -> Any:
        """The JSON of an answer."""
        if self.kind == "tgi":
            options = {"max_new_tokens": 1, "details": True, "top_n_tokens": self.top, "do_sample": False}
            body: dict[str, Any] = {"inputs": text, "parameters": options}
        else:
            body = {"prompt": text, "max_tokens": 1, "logprobs": self.top, "temperature": 0}
            body |= {"model": self.model} if self.model else {}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {os.environ[self.key]}"} if self.key else {}
        asked = request.Request(self.url, json.dumps(body).encode(), headers)
        wait, why = self.pause, ""
        for attempt in range(self.retries + 1):
            self._in_turn()
            try:
                with request.urlopen(asked, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except error.HTTPError as problem:
                why = f"HTTP {problem.code} {problem.reason}"
                if problem.code not in AGAIN:
                    break
                told = _seconds(problem.headers.get("Retry-After"))
            except json.JSONDecodeError as problem:
                why, told = f"no JSON ({first_line(problem)})", None
            except (OSError, error.URLError) as problem:  # down, or slow
                why, told = first_line(problem), None
            if attempt < self.retries:
                pause = min(told if told is not None else wait * (1.0 + 0.1 * random.random()), LONGEST)
                logger.info("%s: %s; again in %.1f s", self.url, why, pause)
                time.sleep(pause)
                wait *= 2
        raise BaseModelError(
            "endpoint", f"{self.url} gave {why}", "an answer", "what was answered is kept: go on later"
        )

    def _in_turn(self) -> None:
        """Wait for this query's turn."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self.gap
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
            what = f"{self.url} answered {json.dumps(answer)[:120]}"
            expected = "log-probabilities of the likeliest next tokens"
            raise BaseModelError(
                "endpoint", what, expected, "an endpoint that gives them, or another kind"
            ) from problem
        if not told or not all(math.isfinite(value) and value <= 1e-3 for value in told.values()):
            what = f"{self.url} answered {json.dumps(told)[:120]}"
            raise BaseModelError("endpoint", what, "log-probabilities: finite, at most 0")
        return told


def _of_word(told: dict[str, float], word: str) -> float | None:
    """The log-probability of a word: as it is written, else however it is spaced; None where it is not told."""
    if word in told:
        return told[word]
    alike = [value for token, value in told.items() if token.strip() == word.strip()]
    return math.log(sum(math.exp(value) for value in alike)) if alike else None


def _seconds(header: str | None) -> float | None:
    """What Retry-After says, as seconds from now.

    Example:

        >>> _seconds("3"), _seconds(None), _seconds("soon")
        (3.0, None, None)
    """
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except (ValueError, TypeError):
        return None
