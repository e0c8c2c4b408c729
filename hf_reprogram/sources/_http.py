"""Of an answer over HTTP: its address without secrets, its whole body in time, how long it says to wait."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from http.client import HTTPResponse, IncompleteRead


def shown(url: str) -> str:
    """A URL without what may be secret.

    Example:

        >>> shown("http://me:secret@host:80/v1/completions?api_key=secret")
        'http://host:80/v1/completions'
    """
    return re.sub(r"//[^/]*@", "//", url.partition("?")[0].partition("#")[0])


def whole(answer: HTTPResponse, until: float) -> bytes:
    """All of an answer, which may come in drops: a socket's own timeout is that of each.

    Raises:
        TimeoutError: the time is over.  IncompleteRead: less came than was announced.
    """
    parts = []
    while part := answer.read1(1 << 16):
        parts.append(part)
        if time.monotonic() > until:
            raise TimeoutError
    if answer.length:
        raise IncompleteRead(b"".join(parts), answer.length)
    return b"".join(parts)


def cut(text: str, length: int = 100) -> str:
    """The start of a text.

    Example:

        >>> cut("so good", 2), cut("so")
        ('so...', 'so')
    """
    return text if len(text) <= length else text[:length] + "..."


def seconds(header: str | None) -> float | None:
    """What Retry-After says, as seconds from now.

    Example:

        >>> seconds("3"), seconds(None), seconds("soon")
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
