"""Files that are what they were or what they are to be."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feynkac import ArgumentError
from feynkac.base import writing
from feynkac.base.writing import replace_file, write_atomically


def test_a_file_is_made_and_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "file", content)
        assert [each.read_bytes() for each in tmp_path.iterdir()] == [content]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_what_ends_the_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(error), replace_file(path) as file:
        file.write(b"half of the n")
        raise error
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(writing.os, "fsync", fail)
    with pytest.raises(ArgumentError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_permissions_of_a_file_stay_and_a_new_one_has_the_usual_ones(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "new", b"x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    (tmp_path / "new").chmod(0o640)
    write_atomically(tmp_path / "new", b"y")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_link_goes_on_pointing_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for content in (b"one", b"two"):
        write_atomically(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_bytes() == content


def test_what_is_no_file_is_written_to_as_it_stands(tmp_path: Path) -> None:
    write_atomically(os.devnull, b"x")
    assert not stat.S_ISREG(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("path", ["missing/file", "", None])
def test_what_cannot_be_written_is_an_argument_error(tmp_path: Path, path: str | None) -> None:
    with pytest.raises(ArgumentError, match=r"cannot be written|give the path of a file"):
        write_atomically(None if path is None else tmp_path / path, b"x")  # type: ignore[arg-type]


KILLED = """
import os, signal, sys
from feynkac.base.writing import replace_file
with replace_file(sys.argv[1]) as file:
    file.write(b"half of the n")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _kill_a_writer(path: Path) -> Path:
    """What a process leaves that is killed while it writes `path`."""
    before = set(path.parent.iterdir())
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert ended.returncode == -signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - before
    return left


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_a_killed_writer_left_is_deleted_by_a_later_one(tmp_path: Path) -> None:
    path = tmp_path / "file[1]*"
    write_atomically(path, b"old")
    left = _kill_a_writer(path)
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert left.exists()  # another machine may be at it, whose locks are not seen here
    _age(left, 700.0)
    write_atomically(tmp_path / "file", b"another")
    assert left.exists()
    write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", path]


def test_what_a_living_writer_is_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replace_file(path) as slow:
        slow.write(b"slow")
        slow.flush()
        (beside,) = tmp_path.iterdir()
        _age(beside, 700.0)
        write_atomically(path, b"fast")
        assert beside.exists() and path.read_bytes() == b"fast"
    assert path.read_bytes() == b"slow" and list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    path = tmp_path / "file"
    left = _kill_a_writer(path)
    _age(left, 700.0)
    monkeypatch.setattr(writing.fcntl, "flock", refuse)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and left.exists()
