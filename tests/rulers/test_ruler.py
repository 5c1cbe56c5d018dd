"""`fk.ruler`: what it tells, how it ends, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, FeynkacError, PotentialError
from feynkac.models.edits import Add
from feynkac.rulers.describing import count_distinct

LIMIT = 3


def count(text: str) -> int:
    return text.count("b")


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm("a", "b", seed=3)


@pytest.fixture(scope="module")
def base(lm):
    return lm.prompt("a", max_tokens=LIMIT)


def cold(lm, t: float = 0.5):
    return lm.prompt("a", max_tokens=LIMIT, temperature=t)


@pytest.fixture(scope="module")
def measured(lm, base):
    laws = {"cold": cold(lm), (14, 2.0): (base, fk.reward(count)), 3: (base, fk.constraint(lambda text: False))}
    return fk.ruler(base, laws, count, texts=400, seed=1)


def find_truth(task) -> tuple[float, float]:
    """The mean reward of a task, and its KL to the base, from all its texts."""
    model, *potentials = task if isinstance(task, tuple) else (task,)
    result = fk.steer(model, *potentials, algorithm="exact")
    return result.expectation(count), result.log_evidence


def test_rewards_and_divergences_are_within_their_errors(lm, base, measured) -> None:
    """By 8 standard errors: of ten islands that is exceeded once in 40,000 seeds."""
    mean, log_z = find_truth((base, fk.reward(count)))
    tilt = measured[14, 2.0]
    assert tilt.reward.parts in (10, 400)
    assert abs(tilt.reward.value - mean) < 8 * tilt.reward.se
    assert abs(tilt.kl.value - (mean - log_z)) < 8 * tilt.kl.se
    assert abs(measured["cold"].reward.value - find_truth(cold(lm))[0]) < 8 * measured["cold"].reward.se
    assert 0 < measured["cold"].kl.value < 0.3
    assert measured.base.kl.value == measured.base.kl.se == 0.0
    for row in (measured["cold"], tilt):
        assert row.kl.value > row.least_kl.value - 8 * math.hypot(row.kl.se, row.least_kl.se)


def test_a_law_that_is_the_base_is_no_nat_away(lm, base) -> None:
    row = fk.ruler(base, {"same": lm.prompt("a", max_tokens=LIMIT)}, count, texts=20)["same"]
    assert row.kl.value == row.kl.se == 0.0


def test_the_strength_of_an_edit_is_chosen_by_what_it_costs(lm, base) -> None:
    """No edit costs nothing; the dearer of two is left out of a budget below its own nats."""
    direction = torch.linspace(-1.0, 1.0, 16)
    edited = {
        s: lm.edited(Add(direction, layer=1, strength=s)).prompt("a", max_tokens=LIMIT) for s in (0.0, 30.0, 200.0)
    }
    ruler = fk.ruler(base, edited, lambda text: text.count("a"), texts=400)
    none, some, much = (ruler[s].kl for s in edited)
    assert abs(none.value) < 1e-5 < some.value < much.value
    for s in (30.0, 200.0):
        truth = fk.steer(edited[s], algorithm="exact")
        log_p = lm.score(base, truth.texts)
        assert ruler[s].kl.value == pytest.approx(truth.weights @ (truth.log_weights - log_p), abs=8 * ruler[s].kl.se)
    assert ruler.best(kl=0.5 * much.value) != 200.0


def test_a_constraint_costs_what_its_evidence_says(base) -> None:
    law = (base, fk.regex("b?a*"))
    row = fk.ruler(base, {"no b": law}, count, texts=100)["no b"]
    assert row.kl.value == pytest.approx(-find_truth(law)[1], abs=8 * row.kl.se)
    assert set(row.texts) <= {"", "a", "b", "ba", "aa", "baa", "aaa"} and len(row.texts) == 100


def test_particles_that_died_count_among_the_errors(base) -> None:
    """All living ones weigh the same, and yet their evidence is uncertain."""
    law = (base, fk.constraint(lambda text: "b" not in text))
    row = fk.ruler(base, {"no b": law}, count, texts=200)["no b"]
    assert 0.02 < row.kl.se < 0.2
    assert row.kl.value == pytest.approx(-find_truth((base, fk.regex("a*")))[1], abs=8 * row.kl.se)


def test_steered_laws_are_rounded_up_to_equal_islands(base) -> None:
    row = fk.ruler(base, {"tilt": (base, fk.reward(count, scale=3.0))}, count, texts=21)["tilt"]
    assert len(row.texts) == 30


def test_more_laws_behind_change_nothing(lm, base, measured) -> None:
    again = fk.ruler(base, {"cold": cold(lm)}, count, texts=400, seed=1)
    assert again["cold"] == measured["cold"] and again.base == measured.base and again.frontier == measured.frontier
    assert fk.ruler(base, {"cold": cold(lm)}, count, texts=20, seed=2)["cold"] != again["cold"]


def test_the_best_law_is_the_one_that_can_be_afforded(measured) -> None:
    dear = measured[14, 2.0].kl.value
    assert measured.best() == (14, 2.0) and measured.best(kl=dear) == (14, 2.0)
    assert measured.best(kl=0.99 * dear) == "base"  # the cold law has fewer b's
    with pytest.raises(ArgumentError, match=r"a number of at least 0.*budget of nats"):
        measured.best(kl=-1.0)


def test_a_law_that_died_has_a_row_that_says_so(measured) -> None:
    dead = measured[3]
    assert dead.died and "<lambda>" in dead.warnings[0] and measured.complete
    (line,) = [line for line in measured.table().splitlines() if line.startswith("3 ")]
    assert "died" in line


def test_the_table_is_aligned_and_holds_every_law(measured) -> None:
    lines = measured.table().split("\n\n")[0].splitlines()
    assert [line.split("  ")[0] for line in lines[:5]] == ["law", "base", "cold", "(14, 2.0)", "3"]
    assert lines[5].startswith("exp(") and len({len(line) for line in lines[:4]}) == 1
    assert measured["cold"].name == "cold" and repr(measured) == "Ruler(3 laws, 400 texts each)"
    with pytest.raises(KeyError):
        measured["warm"]


def test_a_ruler_survives_its_file(measured, tmp_path) -> None:
    measured.to_json(tmp_path / "ruler.json")
    back = fk.Ruler.from_json(tmp_path / "ruler.json")
    assert back.table() == measured.table() and repr(back[14, 2.0]) == repr(measured[14, 2.0])
    assert back.frontier == measured.frontier and math.isnan(back[3].reward.value)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArgumentError, match=r"Ruler\.to_json"):
        fk.Ruler.from_json(tmp_path / "other.json")


def test_a_ruler_draws_itself(measured, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    figure = measured.plot(tmp_path / "ruler.png")
    (axes,) = figure.axes
    assert (tmp_path / "ruler.png").stat().st_size > 5000
    assert {text.get_text() for text in axes.texts} == {"base", "cold", "(14, 2.0)"}


def test_texts_that_the_base_cannot_write_are_infinitely_far(lm, base, tmp_path) -> None:
    narrow = lm.prompt("a", max_tokens=LIMIT, top_k=1)
    ruler = fk.ruler(narrow, {"wide": base}, count, texts=50)
    row = ruler["wide"]
    assert row.kl.value == math.inf and row.fluency.value == math.inf
    assert "cannot be written by the base" in row.warnings[0] and "inf" in ruler.table()
    assert ruler.best(kl=1e9) == "base"
    ruler.to_json(tmp_path / "ruler.json")
    assert fk.Ruler.from_json(tmp_path / "ruler.json").table() == ruler.table()
    assert fk.ruler(base, {"narrow": narrow}, count, texts=50)["narrow"].kl.value < math.inf


def test_bools_count_as_numbers_and_rewards_may_be_told_their_problem(base, measured) -> None:
    found = fk.ruler(base, {"tilt": (base, fk.reward(count))}, lambda text: "b" in text, texts=50)
    assert 0.0 < found.base.reward.value < 1.0
    told = fk.ruler(base, {"tilt": base}, lambda text, problem: len(problem.prompt), texts=20)
    assert told.base.reward.value == 1.0
    scaled = fk.ruler(base, {"cold": base}, fk.reward(count, scale=2.0), texts=400, seed=1)
    assert scaled.base.reward.value == pytest.approx(2.0 * measured.base.reward.value)


def test_distinct_words_are_shares_of_all_words() -> None:
    assert count_distinct(["a b a", "a b"], 1) == 2 / 5
    assert count_distinct(["a b a", "a b"], 2) == 2 / 3
    assert math.isnan(count_distinct(["", "a"], 2))


def test_the_progress_of_the_laws_is_shown(lm, base, capsys) -> None:
    fk.ruler(base, {"cold": cold(lm)}, count, texts=20, progress=True)
    assert "2/2" in capsys.readouterr().err
    fk.ruler(base, {"cold": cold(lm)}, count, texts=20)
    assert capsys.readouterr().err == ""


def fail_at(call: int, error: BaseException):
    """A reward that raises the `call`-th time that it is asked about a law."""
    asked = []

    def reward(texts: list[str]) -> list[int]:
        asked.append(len(texts))
        if len(asked) == call:
            raise error
        return [count(text) for text in texts]

    return fk.reward(reward, every="end", batch=True)


def test_an_interrupt_keeps_the_laws_measured_so_far(lm, base) -> None:
    laws = {name: cold(lm) for name in ("one", "two", "three")}
    found = fk.ruler(base, laws, fail_at(3, KeyboardInterrupt()), texts=20)
    assert [row.name for row in found.laws] == ["one"] and found.missing == ["two", "three"] and not found.complete
    assert "two: not measured" in found.table()
    with pytest.raises(KeyboardInterrupt):
        fk.ruler(base, laws, fail_at(1, KeyboardInterrupt()), texts=20)


def test_an_interrupt_within_a_run_keeps_the_laws_measured_so_far(base) -> None:
    def stop(text: str) -> float:
        raise KeyboardInterrupt

    found = fk.ruler(base, {"one": base, "two": (base, fk.reward(stop))}, count, texts=20)
    assert found.missing == ["two"] and [row.name for row in found.laws] == ["one"]


def test_a_reward_that_fails_names_the_law_and_keeps_the_others(lm, base) -> None:
    laws = {"one": cold(lm), "two": cold(lm, 0.7)}
    with pytest.raises(PotentialError, match=r"law 'two'.*raised ValueError: no") as caught:
        fk.ruler(base, laws, fail_at(3, ValueError("no")), texts=20)
    assert caught.value.partial.missing == ["two"] and caught.value.partial["one"].reward.parts == 20
    with pytest.raises(PotentialError, match=r"the base.*raised ValueError: no") as caught:
        fk.ruler(base, laws, fail_at(1, ValueError("no")), texts=20)
    assert caught.value.partial is None


def test_a_reward_that_forbids_is_refused(base) -> None:
    with pytest.raises(PotentialError, match=r"-inf for the text.*measure \(task, constraint\)"):
        fk.ruler(base, {"same": base}, lambda text: -math.inf if "b" in text else 0.0, texts=50)
    with pytest.raises(ArgumentError, match="only forbids"):
        fk.ruler(base, {"same": base}, fk.regex("a*"))
    for wrong in (1.0, None, str):
        with pytest.raises(ArgumentError, match="reward is"):
            fk.ruler(base, {"same": base}, wrong)


def test_what_has_no_probability_under_the_base_is_refused_by_name(tiny_lm, lm, base) -> None:
    @fk.program
    def write(p, lm):
        return p.sample(lm.context("a").gen(max_tokens=2))

    other = tiny_lm("a", "c").prompt("a", max_tokens=LIMIT)
    joined = base.join([base])
    wrong = {
        r"law 'x' is .*Program.*whose samples have no probability": write(lm),
        r"law 'x' is str": "a",
        r"law 'x' is tuple": (),
        r"law 'x' joins 2 prompts": joined,
        r"law 'x' obeys constraints already": base.constrain([fk.regex("a*")]),
        r"law 'x' has another vocabulary \(3 tokens\) than the base": other,
        r"law 'x' has max_tokens=2 and the base 3": lm.prompt("a", max_tokens=2),
        r"law 'x' has at_limit='end' and the base 'truncate'": lm.prompt("a", max_tokens=LIMIT, at_limit="end"),
        r"law 'x' has stop=": lm.prompt("a", max_tokens=LIMIT, stop="b"),
    }
    for said, task in wrong.items():
        with pytest.raises(ArgumentError, match=said):
            fk.ruler(base, {"x": task}, count)


def test_a_base_that_is_no_law_is_refused(lm, base) -> None:
    with pytest.raises(ArgumentError, match="the base is a prompt alone"):
        fk.ruler((base, fk.regex("a*")), {"x": base}, count)
    with pytest.raises(ArgumentError, match="the base has at_limit='end'"):
        fk.ruler(lm.prompt("a", max_tokens=LIMIT, at_limit="end"), {"x": base}, count)
    with pytest.raises(ArgumentError, match="the base is str"):
        fk.ruler("a", {"x": base}, count)


@pytest.mark.parametrize("laws", [{}, [], None])
def test_no_laws_are_refused(base, laws) -> None:
    with pytest.raises(ArgumentError, match="give a dict of tasks"):
        fk.ruler(base, laws, count)


def test_the_base_s_name_is_no_law_s(base) -> None:
    with pytest.raises(ArgumentError, match="'base' is the name of the base"):
        fk.ruler(base, {"base": base}, count)
    with pytest.raises(ArgumentError, match="texts is 3"):
        fk.ruler(base, {"x": base}, count, texts=3)


def test_names_that_json_cannot_hold_are_refused_by_the_file(base, tmp_path) -> None:
    with pytest.raises(FeynkacError, match="names of the laws"):
        fk.ruler(base, {frozenset({object()}): base}, count, texts=20).to_json(tmp_path / "no.json")
