"""The steps of a save on its way to the disk, so that a test can fail or kill at any one of them."""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Steps:
    """Counts what is done to files below a folder, and calls `act` at the step numbered `at` (from 1).

    Steps are opening to write, both halves of a write, flush, fsync, rename, making folders, removing files.

    Args:
        folder: only files in it count.
        at: number of the step; 0 only counts.
        act: called with the step's name BEFORE the step is done; what it raises the saver sees.
        lasting: whether all later steps of the same kind fail too, as on a full or read-only disk.
    """

    def __init__(
        self, folder: Path, at: int = 0, act: Callable[[str], None] | None = None, lasting: bool = False
    ) -> None:
        self.folder, self.at, self.act, self.lasting = str(folder), at, act, lasting
        self.seen: list[str] = []

    def step(self, name: str, path: Any) -> None:
        """One step: note it, and act where it is the one."""
        if not str(path).startswith(self.folder):
            return
        self.seen.append(name)
        number = len(self.seen)
        if self.act is not None and (number == self.at or (self.lasting and number > self.at > 0)):
            self.act(name)

    @contextmanager
    def watched(self) -> Iterator[Steps]:
        """Everything that happens inside is counted."""
        real = builtins.open, os.fsync, os.replace, os.mkdir, os.unlink
        owner: dict[int, Any] = {}

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real[0](file, mode, *args, **kwargs)
            self.step("open", file)
            handle = real[0](file, mode, *args, **kwargs)
            owner[handle.fileno()] = file
            return _Watched(handle, file, self)

        def before(name: str, function: Callable[..., Any], path_of: Callable[[Any], Any] = lambda p: p) -> Any:
            def replaced(first: Any, *args: Any, **kwargs: Any) -> Any:
                self.step(name, path_of(first))
                return function(first, *args, **kwargs)

            return replaced

        builtins.open = opened
        os.fsync = before("fsync", real[1], owner.get)
        os.replace = before("replace", real[2])
        os.mkdir, os.unlink = before("mkdir", real[3]), before("unlink", real[4])
        try:
            yield self
        finally:
            builtins.open, os.fsync, os.replace, os.mkdir, os.unlink = real


class _Watched:
    """A file whose writes reach the disk in two halves, each a step."""

    def __init__(self, file: Any, path: Any, steps: Steps) -> None:
        self.file, self.path, self.steps = file, path, steps

    def write(self, data: bytes) -> int:
        for name, part in (("write", data[: len(data) // 2]), ("half-written", data[len(data) // 2 :])):
            self.steps.step(name, self.path)
            self.file.write(part)
            self.file.flush()
        return len(data)

    def flush(self) -> None:
        self.steps.step("flush", self.path)
        self.file.flush()

    def fileno(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()
