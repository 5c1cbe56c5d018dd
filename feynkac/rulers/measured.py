"""What `fk.ruler` found: a row for each law, and the frontier below them all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import hold_the_same, read_flag, read_limit, read_whole
from feynkac.base.paths import read_path
from feynkac.base.writing import write_atomically
from feynkac.results.files import map_numbers, read_number, write_number
from feynkac.results.plain import make_plain
from feynkac.rulers.estimates import Estimate
from feynkac.rulers.frontier import Tilt
from feynkac.rulers.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION = 1
UNKNOWN = Estimate(math.nan, math.nan, 0)


@dataclass(frozen=True)
class Measured:
    """One law: what it gains and what it pays."""

    name: Any
    reward: Estimate
    """Its mean reward."""
    kl: Estimate
    """KL(law || base), nats a text; inf where it writes what the base cannot."""
    least_kl: Estimate
    """The least KL of any law with this mean reward, nats a text."""
    reached: bool
    """Whether the base's own texts tell `least_kl`; else it is a bound from below."""
    fluency: Estimate
    """The mean negative log-likelihood of a token under the base, nats: of all tokens, ends among them, over texts."""
    distinct_1: float
    """Distinct words, as a share of all words of `texts`."""
    distinct_2: float
    """Distinct pairs of neighbouring words, as a share of all."""
    forwarded_tokens: int
    """Tokens that went through models to draw the texts; the reading of them is not counted."""
    texts: list[str] = field(repr=False)
    """Draws of equal weight: of a steered law resampled, so that some may come twice."""
    warnings: list[str] = field(default_factory=list)
    died: bool = False
    """Whether all particles died, so that nothing is known."""

    def __eq__(self, other: object) -> bool:
        return hold_the_same(self, other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # it holds lists


def make_dead(name: Any, why: str) -> Measured:
    """The row of a law whose particles all died."""
    return Measured(name, UNKNOWN, UNKNOWN, UNKNOWN, False, UNKNOWN, math.nan, math.nan, 0, [], [why], died=True)


@dataclass(frozen=True)
class Ruler:
    """Laws of texts on one footing (see `feynkac.ruler`). `ruler[name]` is the row of a law."""

    base: Measured
    laws: list[Measured]
    frontier: list[Tilt]
    """The laws exp(strength * reward) * base, as far as the base's texts tell: at each mean reward the least KL."""
    texts: int
    """Drawn of each law."""
    seed: int
    missing: list[Any] = field(default_factory=list)
    """The names of laws that were not measured, since the measurement was stopped."""

    @property
    def complete(self) -> bool:
        """Whether all laws were measured."""
        return not self.missing

    def __getitem__(self, name: Any) -> Measured:
        for row in (self.base, *self.laws):
            if row.name == name:
                return row
        raise KeyError(name)

    def best(self, kl: float = math.inf) -> Any:
        """The name of the law with the largest mean reward among those within `kl` nats of the base; "base" if none.

        So strength and layer are chosen: measure each, and take the best that can be afforded. Estimates count as they
        are; a law chosen of many looks better than it is, so measure it once more with another seed. Raises
        ArgumentError for a negative budget.
        """
        kl = read_limit("best: kl", kl, ", a budget of nats")
        within = [row for row in (self.base, *self.laws) if not row.died and row.kl.value <= kl]
        return max(within, key=lambda row: row.reward.value).name

    def table(self) -> str:
        """All rows, and some points of the frontier, as text."""
        return write_table(self)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """A figure of matplotlib: mean reward against KL, with errors, below the frontier; saved at `path`.

        Raises FeynkacError where matplotlib is missing.
        """
        from feynkac.results.pictures.saving import save_figure
        from feynkac.rulers.picture import draw

        figure = draw(self)
        if path is not None:
            save_figure(figure, path)
        return figure

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a file that `from_json` reads. Raises ArgumentError for names that JSON cannot hold."""
        try:
            data = {"feynkac_ruler": VERSION, **asdict(self)}
            text = json.dumps(map_numbers(data, write_number), ensure_ascii=False, allow_nan=False, default=make_plain)
        except Exception as cause:  # names are of any class, and are copied and written by their own code
            raise ArgumentError(f"the names of the laws cannot be written as JSON: {cause}") from cause
        write_atomically(path, text.encode("utf-8", "surrogatepass"))

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Ruler:
        """Read what `to_json` wrote; names that were tuples are tuples again. Raises ArgumentError for another file."""
        path = read_path("path", path)
        try:
            data = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
            if data.pop("feynkac_ruler") != VERSION:
                raise KeyError("feynkac_ruler")
            return cls(
                _read_row(data["base"]),
                [_read_row(each) for each in data["laws"]],
                [_read_tilt(each) for each in data["frontier"]],
                read_whole("texts", data["texts"], 1),
                read_whole("seed", data["seed"], 0),
                [_read_name(name) for name in data["missing"]],
            )
        except OSError as cause:
            raise ArgumentError(f"{path} cannot be read: {cause}") from cause
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as cause:
            raise ArgumentError(f"{path} was not written by Ruler.to_json of this version") from cause

    def __repr__(self) -> str:
        return f"Ruler({len(self.laws)} laws, {self.texts} texts each)"


def _read_row(data: Mapping[str, Any]) -> Measured:
    found = dict(data) | {name: _read_estimate(data[name]) for name in ("reward", "kl", "least_kl", "fluency")}
    found |= {name: _read_float(data[name]) for name in ("distinct_1", "distinct_2")}
    found |= {name: read_flag(name, data[name]) for name in ("reached", "died")}
    found["forwarded_tokens"] = read_whole("forwarded_tokens", data["forwarded_tokens"], 0)
    for name in ("texts", "warnings"):
        if not isinstance(data[name], list) or not all(isinstance(text, str) for text in data[name]):
            raise ValueError(f"{name} are no texts")
    return Measured(**{**found, "name": _read_name(data["name"])})


def _read_tilt(data: Mapping[str, Any]) -> Tilt:
    return Tilt(
        _read_float(data["strength"]),
        _read_estimate(data["reward"]),
        _read_estimate(data["kl"]),
        _read_float(data["ess"]),
    )


def _read_estimate(data: Mapping[str, Any]) -> Estimate:
    return Estimate(_read_float(data["value"]), _read_float(data["se"]), read_whole("parts", data["parts"], 0))


def _read_float(x: Any) -> float:
    found = read_number(x)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ValueError(f"{quote(x)} is no number")
    return float(found)


def _read_name(name: Any) -> Any:
    return tuple(name) if isinstance(name, list) else name
