"""The errors of the library: each says where, what was given, what was expected, and how to mend it."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable


class ReprogramError(Exception):
    """Base of all our errors.

    Args:
        where: the field, argument, file or row concerned, as the user wrote it (`"PromptConfig.template"`).
        what: what was found there, with the user's own value. Left out, `where` is the whole message: torch makes a
            worker's error anew from its text alone, and would make it a RuntimeError if it could not.
        expected: what would have been right.
        fix: one thing to try.

    Example:

        >>> str(ReprogramError("PromptConfig.template", "no {answer}", "one answer slot", 'try "{text}{answer}"'))
        'PromptConfig.template: no {answer}. Expected one answer slot. Fix: try "{text}{answer}"'
    """

    def __init__(self, where: str, what: str = "", expected: str | None = None, fix: str | None = None) -> None:
        self.where, self.what, self.expected, self.fix = where, what, expected, fix
        message = f"{where}: {what.rstrip('.')}" if what else where
        if expected:
            message += f". Expected {expected.rstrip('.')}"
        if fix:
            message += f". Fix: {fix.rstrip('.')}"
        super().__init__(message)

    def __reduce__(self):
        # Exceptions with several arguments do not unpickle by themselves, and data workers send theirs pickled.
        return type(self), (self.where, self.what, self.expected, self.fix)


class ConfigError(ReprogramError, ValueError):
    """A configuration that cannot be meant: unknown method or option, value out of range, parts that do not fit."""


class TemplateError(ConfigError):
    """A template that cannot be read, or that lacks what the mapping reads."""


class DataError(ReprogramError, ValueError):
    """A row or a batch that cannot be used: missing column, empty text, unknown label."""


class ArtefactError(ReprogramError, ValueError):
    """A saved program that is damaged, incomplete, or belongs to another base."""


class BaseModelError(ReprogramError, ValueError):
    """A base model that cannot be reprogrammed in the way asked for."""


class UsageError(ReprogramError, RuntimeError):
    """A call that makes no sense in the present state of the model."""


class BudgetError(ReprogramError, RuntimeError):
    """More queries, or more time, than were allowed; nothing was sent of what would have gone beyond."""


def first_line(error: BaseException) -> str:
    """The first line of a foreign error, cut behind a word to a length that fits into one of ours.

    Example:

        >>> first_line(OSError("no such file")), first_line(KeyboardInterrupt())
        ('no such file', 'KeyboardInterrupt')
    """
    return textwrap.shorten((str(error).strip().splitlines() or [type(error).__name__])[0], 400, placeholder=" ...")


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None where nothing is close.

    Example:

        >>> nearest("promt", ["prompt", "none"])
        'prompt'
    """
    known = list(known)
    lowered = {k.lower(): k for k in reversed(known)}
    hits = difflib.get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.5)
    return lowered[hits[0]] if hits else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A fix for an unknown name: the nearest valid choice, and the choices; of many the dozen that are most like it.

    Example:

        >>> did_you_mean("promt", ["prompt", "none"])
        "did you mean 'prompt'? Known: 'none', 'prompt'"
    """
    known = sorted(str(k) for k in known)
    hit = nearest(name, known)
    if len(known) > 12:
        known.sort(key=lambda k: -difflib.SequenceMatcher(None, str(name).lower(), k.lower()).ratio())
    shown = ", ".join(repr(k) for k in known[:12]) + (f", ... and {len(known) - 12} more" if len(known) > 12 else "")
    hint = f"did you mean {hit!r}? " if hit else ""
    return f"{hint}Known: {shown or 'nothing'}"
