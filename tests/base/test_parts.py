"""Work in halves: what fits is found once, said once, and kept."""

from __future__ import annotations

import pytest

from feynkac.base.parts import run_in_halves


def fit(most: int, asked: list[int]):
    """Work that has memory for `most` rows at once."""

    def run(rows: int) -> str:
        asked.append(rows)
        if rows > most:
            raise MemoryError(f"{rows}")
        return "done"

    return run


@pytest.mark.parametrize(("n", "most", "asked"), [(8, 8, [8]), (8, 3, [8, 4, 2]), (5, 1, [5, 2, 1]), (0, 4, [1])])
def test_rows_are_halved_until_they_fit(n: int, most: int, asked: list[int]) -> None:
    seen, said = list[int](), list[int]()
    room = dict[str, int]()
    assert run_in_halves("work", n, room, fit(most, seen), lambda rows, error: said.append(rows)) == "done"
    assert seen == asked
    assert said == asked[:1] * (len(asked) > 1)
    assert room == ({"work": asked[-1]} if len(asked) > 1 else {})


def test_what_fits_is_known_the_next_time_and_is_not_said_again() -> None:
    seen, said, room = list[int](), list[int](), {"work": 4}
    run_in_halves("work", 9, room, fit(2, seen), lambda rows, error: said.append(rows))
    assert (seen, said, room) == ([4, 2], [], {"work": 2})
    run_in_halves("work", 1, room, fit(2, seen), lambda rows, error: said.append(rows))
    assert (seen, room) == ([4, 2, 1], {"work": 2})


def test_one_row_that_does_not_fit_is_an_error_and_so_is_any_other() -> None:
    with pytest.raises(MemoryError):
        run_in_halves("work", 2, {}, fit(0, []), lambda rows, error: None)
    with pytest.raises(ZeroDivisionError):
        run_in_halves("work", 2, {}, lambda rows: 1 // 0, lambda rows, error: pytest.fail("said"))
