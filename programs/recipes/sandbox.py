"""A Python program of a language model's, run in a process of its own under limits. No security boundary."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import as_real, read_whole

_LONGEST, _MOST = 1e6, 1 << 40
"""Seconds, and MiB or bytes, above which a limit is none."""
_KIND = "object type name: "
_ALONE = ["-I", "-B", "-X", "utf8"]
# The child lowers its own limits, in a fresh interpreter that then becomes the program: what a process with threads
# runs between fork and exec may hang. A hard limit that was lowered cannot be raised again, and outlives exec.
_LAUNCHER = """
import os, resource, sys
seconds, memory, output = map(int, sys.argv[1:4])
limits = {"RLIMIT_CPU": seconds, "RLIMIT_AS": memory, "RLIMIT_FSIZE": output, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}
for name, limit in limits.items():
    try:
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    except (AttributeError, OSError, ValueError):
        if sys.platform == "linux":
            raise
os.execv(sys.argv[4], sys.argv[4:])
"""


class Ran(NamedTuple):
    """How a program went."""

    output: str
    """What it printed, cut at the limit; bytes that are no UTF-8 are replaced."""
    error: str
    """Empty where it ended well; else the last line of its complaint, or which limit ended it."""


def run_python(code: str, *, timeout: float = 5.0, memory: int = 512, output: int = 10_000) -> Ran:
    """Run `code` by `python -I` in an empty folder that is deleted afterwards, and say what it printed.

        run_python("print(6 * 7)")                          # Ran(output='42\\n', error='')

    It gets at most `timeout` seconds, `memory` MiB of addresses, and `output` bytes in each file that it writes, what
    it prints included. It has no standard input, none of this process's environment, and no shell; unless it is
    root's it may start no other process or thread. What is still running of its session at the end is killed.

    This keeps mistakes from doing harm: endless loops, full memories, floods. It is no security boundary: the code
    reads and writes files and reaches the network as the user may. What may be malicious belongs into a container or a
    virtual machine: give the programs a function of your own in the place of this one.

    Linux keeps all limits; macOS may not keep that of memory. Raises ArgumentError on systems that have no such limits,
    and for limits that are not positive.
    """
    if os.name != "posix":
        raise ArgumentError("run_python needs the limits of POSIX, which this system lacks; give run= of your own")
    if not isinstance(code, str):
        raise ArgumentError(f"run_python({quote(code)}): give a program as a text")
    seconds = as_real(timeout)
    if seconds is None or seconds <= 0.0:
        raise ArgumentError(f"run_python(timeout={quote(timeout)}): give a number of seconds above 0")
    timeout = min(seconds, _LONGEST)
    memory, output = (
        min(read_whole(name, value, 1), _MOST) for name, value in (("memory", memory), ("output", output))
    )
    limits = [math.ceil(timeout) + 1, memory << 20, output]
    with TemporaryDirectory() as folder:
        script, printed, complaint = (Path(folder, name) for name in ("program.py", "printed", "complaint"))
        script.write_bytes(code.encode("utf-8", "surrogatepass"))
        command = [sys.executable, *_ALONE, "-c", _LAUNCHER, *map(str, limits), sys.executable, *_ALONE, str(script)]
        with printed.open("wb") as out, complaint.open("wb") as err:
            status = _wait(command, folder, timeout, out, err)
        said = complaint.read_bytes().decode("utf-8", "replace").split("\n")
        shown = printed.read_bytes()
    last = _find_complaint(said)
    if status is None:
        last = f"it took more than {timeout:g} s"
    elif status and len(shown) >= output:
        last = f"it printed more than {output} bytes"
    elif status < 0:
        last = signal.strsignal(-status) or f"signal {-status}"
    return Ran(shown.decode("utf-8", "replace"), (last or f"exit status {status}") if status != 0 else "")


def _find_complaint(said: list[str]) -> str:
    """The last line; or the kind of an error of which Python had no memory left to say more."""
    last = next((line for line in reversed(said) if line.strip()), "")
    kinds = [line.removeprefix(_KIND) for line in said if line.startswith(_KIND)]
    return kinds[-1] if kinds and last == "lost sys.stderr" else last


def _wait(command: list[str], folder: str, timeout: float, out: IO[bytes], err: IO[bytes]) -> int | None:
    """The exit status of a process that leads a session of its own, all of which is killed then; None out of time."""
    (work := Path(folder, "work")).mkdir()
    process = subprocess.Popen(
        command, cwd=work, env={}, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nothing is left of it; macOS says so in the second way
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
