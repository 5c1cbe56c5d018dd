"""A checkpoint that was read, and how its run is to go on."""

from __future__ import annotations

import os
from typing import Any

from feynkac.base.errors import ArgumentError
from feynkac.base.paths import read_path
from feynkac.steering.checkpoints.asked import check_same
from feynkac.steering.moves import Moving, read_moves

_PARTS = ("asked", "options", "often", "run")
"""What a record has."""


class Saved:
    """A checkpoint that was read. Raises ArgumentError for a file that is none, or is damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from feynkac.steering.checkpoints.files import read_file

        self.path = read_path("resume: path", path)
        self.record, self.tensors = read_file(self.path)
        if missing := [name for name in _PARTS if name not in self.record]:
            raise ArgumentError(f"the checkpoint '{path}' has no {missing[0]} in its record; start the run again")

    def read_options(self, given: dict[str, Any]) -> dict[str, Any]:
        """The options of `steer` by which the run samples; those `given` again, and not None, must be the same.

        Raises ArgumentError for others, and for a resampler or moves of the user's own that are not given again: a file
        holds none.
        """
        known, moving = self.record["options"], read_moves(given["moves"])
        asked = {name: value for name, value in given.items() if value is not None and not callable(value)}
        if moving is not None:
            asked["moves"] = moving.describe()
        check_same(self.path, {name: known[name] for name in asked}, asked)
        return {**known, "resampler": self._find_resampler(given["resampler"]), "moves": self._find_moves(moving)}

    def _find_resampler(self, given: Any) -> Any:
        known = self.record["options"]["resampler"]
        return (
            known if known is not None else self._need(given if callable(given) else None, "resampler", "a resampler")
        )

    def _find_moves(self, given: Moving | None) -> Moving | None:
        known = self.record["options"]["moves"]
        if known is None or not known["moves"]:
            return None if known is None else Moving(**{**known, "moves": ()})
        return self._need(given, "moves", "moves")

    def _need(self, given: Any, name: str, what: str) -> Any:
        if given is None:
            raise ArgumentError(
                f"the run in '{self.path}' has {what} of its own, which a file cannot hold; give it again as {name}="
            )
        return given
