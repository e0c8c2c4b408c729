"""Programs fetched from the Hub and pushed to it: in bounded time, with errors that say what to do and show no token.

huggingface_hub waits without end for some answers, tries some requests again and others not, and raises whatever its
HTTP library raises. Here every call has a few tries and a time limit, and ends in a result or in one of our errors.
"""

from __future__ import annotations

import logging
import os
import posixpath
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Unfinished
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from .artefact import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, resolve_folder
from .errors import ArtefactError, ReprogramError, UsageError, did_you_mean, first_line


logger = logging.getLogger(__name__)
Result = TypeVar("Result")

TRIES = 4
FIRST_WAIT = 1.0  # seconds; doubles with every try
ANSWER = 10.0  # seconds that the Hub has for a first answer, as huggingface_hub gives it for files
TIME_LIMIT = 300.0  # seconds for the whole; a program has kilobytes
OPTIONS = ("revision", "token", "cache_dir", "local_files_only")
_WANTED = "a folder made by save_pretrained, or a repo id"


# Fetching


def fetch(repo_or_folder: str | os.PathLike, subfolder: str | None = None, **hub: Any) -> Path:
    """The local folder of an artefact: given, or fetched from the Hub (its three files and nothing else).

    Where the Hub cannot be reached, a copy that was fetched earlier is used, and one line says so.

    Args:
        repo_or_folder: a folder, or a repo id. Whatever exists on disk is a folder.
        subfolder: inside it.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`.

    Raises:
        ArtefactError: no such folder, repo, revision or program in it; no right to read it; a Hub that cannot be
            reached, fails or does not answer in time.
        UsageError: an unknown option.
    """
    if not isinstance(repo_or_folder, str | os.PathLike) or not isinstance(subfolder, str | os.PathLike | None):
        given = f"{repo_or_folder!r} with subfolder {subfolder!r}"
        raise ArtefactError("repo_or_folder", given, _WANTED)
    for option in hub:
        if option not in OPTIONS:
            raise UsageError(option, "is no option of loading a program", fix=did_you_mean(option, OPTIONS))
    name = os.path.expanduser(repo_or_folder)
    # A repo id is owner/name: nothing else is worth asking the Hub for.
    if os.path.lexists(name) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return resolve_folder(name, subfolder)
    inside = posixpath.normpath(os.fspath(subfolder or "."))
    wanted = [posixpath.join(inside, f).removeprefix("./") for f in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE)]
    try:
        return resolve_folder(_patient(lambda go: _download(go, name, wanted, hub)), inside)
    except ReprogramError:
        raise
    except Exception as error:  # whatever an HTTP library and a parser make of a broken answer
        what, fix = explain(error, hub.get("token"))
        revision = f"@{hub['revision']}" if hub.get("revision") else ""
        why = f"is no folder here, and could not be fetched from the Hub: {what}"
        raise ArtefactError(
            f"{name[:200]}{revision}", why, _WANTED, fix or "try again"
        ) from None  # its text may hold the token


def _download(go: _Go, name: str, wanted: list[str], hub: dict[str, Any]) -> str:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    def get(local: bool) -> str:
        return snapshot_download(name, allow_patterns=wanted, **{**hub, "local_files_only": local})

    if hub.get("local_files_only"):
        return get(local=True)
    try:
        copy = get(local=True)
    except (OSError, ValueError):
        copy = None
    api = HfApi(token=hub.get("token"))
    try:
        info = go(lambda: api.model_info(name, revision=hub.get("revision"), timeout=ANSWER), 1 if copy else TRIES)
    except Exception as error:
        offline = isinstance(error, OfflineModeIsEnabled)
        if copy is None or not (offline or _passes(error)):
            raise
        if not offline:  # which is what the user asked for
            why = explain(error, hub.get("token"))[0]
            logger.warning("%s: %s; the copy that was fetched earlier is used.", name, why)
        return copy
    found = [sibling.rfilename for sibling in info.siblings or []]
    if wanted[0] not in found:
        raise _no_program(name, wanted[0], found)
    return go(lambda: get(local=False))


def _no_program(name: str, wanted: str, found: list[str]) -> ArtefactError:
    """The error for a repo that holds no program where one was looked for."""
    programs = sorted(posixpath.dirname(path) for path in found if posixpath.basename(path) == WEIGHTS_FILE)
    fix = None
    if programs:
        fix = f"subfolder=...: {did_you_mean(posixpath.dirname(wanted), programs)}"
    return ArtefactError(name, f"holds no {wanted} (it holds {sorted(found)[:6]})", "a repo made by push_to_hub", fix)


# Pushing


def push(
    repo_id: str,
    save: Callable[[str, str], None],
    message: str | None = None,
    private: bool | None = None,
    token: Any = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload what `save` writes in one commit: all of it is there afterwards, or nothing. Other files stay.

    Args:
        repo_id: `owner/name`, or a name among one's own. Made where it is missing.
        save: `save(folder, repo_id)` writes the files; the card names the repo.
        message: of the commit.
        private: visibility of a repo that is made.
        token: for the Hub; None takes that of `hf auth login` or `HF_TOKEN`.
        revision: branch, made where it is missing.
        create_pr: as a pull request.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        ArtefactError: the Hub cannot be reached, fails, refuses, or does not answer in time.
        UsageError: no repo id, no right to write there, or offline.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import validate_repo_id

    api = HfApi(token=token)

    def upload(go: _Go) -> str:
        repo = go(lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
        if revision and not revision.startswith("refs/"):
            go(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        added = made if repo == repo_id else _files(save, repo)
        told = {"commit_message": message or "Upload program", "revision": revision, "create_pr": create_pr}
        # Equal files make no second commit, but a second request is a second pull request.
        tries = 1 if create_pr else TRIES
        done = go(
            lambda: api.create_commit(repo, [CommitOperationAdd(*file) for file in added.items()], **told), tries
        )
        return done.pr_url or str(done)

    try:
        validate_repo_id(repo_id)
        made = _files(save, repo_id)  # first of all: what cannot be saved should leave no empty repo
        return _patient(upload)
    except ReprogramError:
        raise
    except Exception as error:
        what, fix = explain(error, token)
        kind = UsageError if _is_refusal(error) else ArtefactError
        where = repr(repo_id)[:200].strip("'")
        raise kind(where, f"could not be pushed to the Hub: {what}", fix=fix) from None


def _files(save: Callable[[str, str], None], name: str) -> dict[str, bytes]:
    """What `save` writes for a repo of that name: bytes by path."""
    with TemporaryDirectory() as folder:
        save(folder, name)
        found = (p for p in sorted(Path(folder).rglob("*")) if p.is_file())
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


# Patience

_Go = Callable[..., Any]  # go(request, tries=TRIES): the request's answer


def _patient(work: Callable[[_Go], Result]) -> Result:
    """`work(go)`, where `go` tries a request again if that may help, given up after TIME_LIMIT.

    In a thread of its own, since some requests wait without end. One that was given up starts no further request.
    """
    deadline = time.monotonic() + TIME_LIMIT
    done: Future[Result] = Future()

    def go(request: Callable[[], Any], tries: int = TRIES) -> Any:
        for attempt in range(1, tries + 1):
            if time.monotonic() > deadline:
                raise Unfinished
            try:
                return request()
            except Exception as error:
                wait = _wait(error, attempt)
                if attempt == tries or not _passes(error) or time.monotonic() + wait > deadline:
                    raise
                logger.warning("The Hub: %s; trying again in %.0f s.", explain(error)[0], wait)
                time.sleep(wait)

    def run() -> None:
        try:
            done.set_result(work(go))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="hf_reprogram.hub", daemon=True).start()
    return done.result(TIME_LIMIT)


def _wait(error: Exception, attempt: int) -> float:
    """Seconds before the next try: what the Hub asks for, else twice as long each time."""
    asked = getattr(_response(error), "headers", {}).get("Retry-After", "")
    return float(asked) if asked.isdigit() else FIRST_WAIT * 2 ** (attempt - 1)


def _passes(error: Exception) -> bool:
    """Whether the same request may be answered better later: an overloaded, failing or unreachable Hub."""
    if _was_repeated(error):
        return False
    status = getattr(_response(error), "status_code", None)
    if status is not None:
        return status in (408, 429) or status >= 500
    kinds = _kinds(error)
    return not kinds & {"OfflineModeIsEnabled", "LocalProtocolError"} and bool(kinds & (_LOST | _GARBAGE))


def is_lost(error: Exception) -> bool:
    """Whether a connection failed: an error of the HTTP library, which shares no base with others of the kind."""
    return bool(_kinds(error) & _LOST)


def _was_repeated(error: Exception) -> bool:
    """Whether huggingface_hub itself has sent the request often enough, as it does with some."""
    response = _response(error)
    try:
        request = (response or _cause(error)).request
    except (AttributeError, RuntimeError):  # an error that knows no request
        return False
    url, status = str(request.url), getattr(response, "status_code", None)
    files = request.method == "GET" and "/resolve/" in url and status in (None, 408, 429)
    return files or "/preupload/" in url or "/tree/" in url


# By name: huggingface_hub 1 and 2 use different HTTP libraries, whose errors have the same names.
_LOST = {"TransportError", "ConnectionError", "TimeoutError", "IncompleteSnapshotError", "FileMetadataError"}
_GARBAGE = {"JSONDecodeError", "KeyError", "TypeError", "AttributeError", "AssertionError", "DecodingError"}


def _cause(error: BaseException) -> BaseException:
    """What huggingface_hub wrapped into 'not in the cache either', and transformers into 'could not be loaded'."""
    while type(error).__name__ in ("LocalEntryNotFoundError", "OSError") and error.__cause__ is not None:
        error = error.__cause__
    return error


def _kinds(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(_cause(error)).__mro__}


def _response(error: BaseException) -> Any:
    return getattr(_cause(error), "response", None)


def _is_refusal(error: BaseException) -> bool:
    """Whether the user, not the Hub, has something to change."""
    mistakes = {"HFValidationError", "OfflineModeIsEnabled", "LocalTokenNotFoundError", "LocalProtocolError"}
    return getattr(_response(error), "status_code", 0) in (401, 403, 404) or bool(_kinds(error) & mistakes)


# Words


def explain(error: BaseException, token: Any = None) -> tuple[str, str | None]:
    """(what went wrong, what to do where the Hub is the reason), without any token."""
    from huggingface_hub import constants

    kinds, response = _kinds(error), _response(error)
    status = getattr(response, "status_code", 0)
    text = _without_token(first_line(_cause(error)), token)
    login = "`hf auth login`, or pass a token"
    if "OfflineModeIsEnabled" in kinds:
        return "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE; folders and what is in the cache need no Hub"
    if "LocalEntryNotFoundError" in kinds:
        return "it is not in the cache, and local_files_only=True", "load it once without local_files_only"
    if "LocalTokenNotFoundError" in kinds:
        return "token=True, and nobody is logged in", login
    if "LocalProtocolError" in kinds:
        return "the token cannot be sent: it holds a line break or another odd character", login
    if "HFValidationError" in kinds:
        return f"no repo id ({text})", "a repo id is owner/name"
    if "GatedRepoError" in kinds:
        return f"access to it must be asked for ({status})", f"ask on its page, then {login}"
    if "RevisionNotFoundError" in kinds:
        return f"it has no such revision ({status})", "revision= a branch, a tag or a commit of it"
    if "RepositoryNotFoundError" in kinds or status == 401:
        if "Invalid credentials" in response.headers.get("X-Error-Message", ""):
            return f"the Hub does not know this token ({status})", login
        sent = "authorization" in response.request.headers
        why = "this token may not read it" if sent else "no token was sent"
        text = f"there is no such repo, or it is private and {why} ({status})"
        return text, f"check the name; for a private repo {login}"
    if status == 403:
        return "this token may not do that (403)", "a token with the right to write there"
    if status == 429:
        waits = response.headers.get("Retry-After")
        return f"too many requests (429{f', wait {waits} s' if waits else ''})", "wait, then try again"
    if status:
        return f"it answered {status}: {text}", "try again later" if status >= 500 else "see what it says"
    if isinstance(error, Unfinished) or kinds & {"TimeoutException", "TimeoutError"}:
        return "it did not answer in time", "try again later; `hf download` and `hf upload` have no time limit"
    if kinds & {"TransportError", "ConnectionError"}:
        return f"{constants.ENDPOINT} cannot be reached ({text})", "look at the network, or use a folder"
    if kinds & _GARBAGE:
        return f"its answer makes no sense ({type(_cause(error)).__name__}: {text})", "try again later"
    return text, None


_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=Bearer )[^\s'\"]+")


def _without_token(text: str, token: Any) -> str:
    """A foreign error's text: some quote the headers that they could not send."""
    for secret in (token, os.environ.get("HF_TOKEN")):
        if isinstance(secret, str) and secret.strip():
            text = text.replace(secret.strip(), "***")
    return _SECRET.sub("***", text)
