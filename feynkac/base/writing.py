"""Files that are either what they were or what they are to be, and never half of it."""

from __future__ import annotations

import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from feynkac.base.errors import ArgumentError
from feynkac.base.paths import read_path

try:
    import fcntl
except ImportError:  # Windows has no such locks: leftovers stay there
    fcntl = None

_LATELY = 600.0
"""Seconds in which a writer that lives has written, or locked, even where locks do not reach other machines."""


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a whole file (see `replace_file`). Raises ArgumentError where it cannot be written."""
    with replace_file(path) as file:
        file.write(data)


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of the old one when the block ends, and is deleted if that raises.

    It is written beside the old one and reaches the disk before it is renamed, so that a run that is killed leaves the
    old file, and a `.NAME.*.part`, which whoever writes the file ten minutes later or more deletes. Permissions stay, a
    link goes on pointing to its file, and what is no file, such as /dev/stdout, is written to as it stands. Raises
    ArgumentError where it cannot be written.
    """
    try:
        place = Path(os.path.realpath(read_path("path", path)))
        before = place.stat() if os.path.exists(place) else None
        if before is not None and not stat.S_ISREG(before.st_mode):
            with place.open("wb") as file:
                yield file
            return
        if before is not None and not os.access(place, os.W_OK):
            raise PermissionError("it is read-only")
        with _write_beside(place, before) as file:
            yield file
    except OSError as cause:
        raise ArgumentError(f"{path!s} cannot be written: {cause}") from cause


@contextmanager
def _write_beside(place: Path, before: os.stat_result | None) -> Iterator[BinaryIO]:
    _delete_leftovers(place)
    beside = place.with_name(f".{place.name[:80]}.{secrets.token_hex(8)}.part")
    try:
        with beside.open("xb") as file:
            with suppress(OSError):  # where a file system has no locks, nobody gets one, and nothing is deleted
                _lock(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            beside.chmod(stat.S_IMODE(before.st_mode))
        beside.replace(place)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    _sync_folder(place.parent)


def _delete_leftovers(place: Path) -> None:
    """Delete what writers of this file left that were killed: nobody holds it, nor has written to it lately."""
    ours = re.compile(rf"\.{re.escape(place.name[:80])}\.[0-9a-f]{{16}}\.part")
    with suppress(OSError):
        for entry in [each for each in os.scandir(place.parent) if ours.fullmatch(each.name)]:
            if fcntl is not None and time.time() - entry.stat().st_mtime > _LATELY:
                with suppress(OSError), open(entry.path, "r+b") as file:
                    _lock(file)
                    os.unlink(entry.path)


def _lock(file: BinaryIO) -> None:
    """Hold a file as long as it is open and this process lives. Raises OSError where another does."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_folder(folder: Path) -> None:
    """Let the new name reach the disk, where a system can do that."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
