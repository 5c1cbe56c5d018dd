"""The handle `p`: it has what the README says and nothing else, and runs other programs as parts."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ProgramError
from feynkac.programs import Bernoulli, Particle, program

ROOT = Path(__file__).parents[2]


def steer(f, *args, **options):
    return fk.steer(program(f)(*args), **{"particles": 4, "seed": 0, **options})


def test_the_handle_has_what_the_table_says() -> None:
    table = (ROOT / "programs" / "README.md").read_text().partition("| `p.` | |")[2].partition("\n\n")[0]
    names = re.findall(r"^\| `(\w+)", table, re.MULTILINE)

    def look(p):
        with pytest.raises(AttributeError):
            p.count = 1
        return type(p), tuple(name for name in dir(p) if not name.startswith("_"))

    kind, found = steer(look).samples[0]
    assert kind is Particle and len(names) == 8 and sorted(found) == sorted(names)


def test_the_runtime_imports_nothing_of_the_language_above_it() -> None:
    for file in sorted((ROOT / "programs" / "runtime").glob("*.py")):
        above = set(re.findall(r"(?:from|import) feynkac\.programs(?:\.(?!runtime\b)\w+| import)", file.read_text()))
        assert not above, file.name


@program
def coin(p, chance, name="coin"):
    return name, p.sample(Bernoulli(chance))


def test_every_way_to_run_a_part() -> None:
    def plain(p, x):
        return x, p.sample(Bernoulli(1.0))

    def whole(p):
        return (
            coin(p, 1.0),
            p.call(coin, 1.0),
            p.call(coin, 1.0, name="other"),
            p.call(coin(1.0)),
            p.call(coin(1.0, name="other"), name="third"),
            coin(1.0)(p),
            p.call(plain, 2),
            p.call(functools.partial(plain, x=3)),
        )

    expected = [("coin", True)] * 2 + [("other", True), ("coin", True), ("third", True), ("coin", True)]
    assert steer(whole).samples == [(*expected, (2, True), (3, True))] * 4


def test_a_program_with_its_arguments_is_no_function() -> None:
    with pytest.raises(ArgumentError, match=r"coin\(0\.5\) has its arguments already.*p\.call\(program\)"):
        coin(0.5)("x")  # pyright: ignore[reportArgumentType]


def test_a_particle_that_another_one_uses() -> None:
    first = []

    def steals(p):
        first.append(p)
        return first[0].sample(Bernoulli(0.5))

    with pytest.raises(ProgramError, match=r"<particle 0 of 'steals', step 0> was used outside of its own run"):
        steer(steals)
