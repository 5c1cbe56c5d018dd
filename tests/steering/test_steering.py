"""The front door: what a user gets, and what a user gets told."""

from __future__ import annotations

import math

import numpy as np
import pytest

import feynkac as fk
from feynkac.smc.engine import Step
from feynkac.smc.resample import adaptive, systematic


def test_a_constraint_is_obeyed_and_the_evidence_is_its_probability(tiny_lm) -> None:
    lm = tiny_lm()
    result = fk.steer(lm.prompt("a", max_tokens=1), fk.regex("[ab]?"), particles=64, seed=0, islands=8)
    assert set(result.texts) <= {"", "a", "b"}
    # With one token to draw the mask's mass is the same for every particle: the evidence has no variance at all.
    whole = fk.steer(lm.prompt("a", max_tokens=1), particles=4000, seed=1)
    share = whole.expectation(lambda text: "e" not in text)
    assert abs(math.exp(result.log_evidence) - share) < 5 * math.sqrt(share * (1 - share) / 4000)
    assert result.log_evidence_se == pytest.approx(0.0, abs=1e-7)  # the proposal is mixed in float32
    assert sum(result.posterior().values()) == pytest.approx(1.0)


def test_same_seed_same_result_and_groups_do_not_disturb_each_other(tiny_lm) -> None:
    lm = tiny_lm()
    tasks = [lm.prompt("a", max_tokens=12), lm.prompt("bba", max_tokens=7), lm.prompt("e", max_tokens=9)]
    options = {"particles": 12, "seed": 5}
    reward = fk.reward(lambda text: text.count("ab"), scale=2.0)
    alone = fk.steer(tasks[0], reward, **options)
    again = fk.steer(tasks[0], reward, **options)
    batch = fk.steer(tasks, reward, **options)
    assert alone.texts == again.texts == batch[0].texts
    assert np.array_equal(alone.log_weights, again.log_weights)
    np.testing.assert_allclose(alone.log_weights, batch[0].log_weights, atol=1e-5)
    assert alone.history.rows == batch[0].history.rows and alone.forwarded_tokens == batch[0].forwarded_tokens
    assert [len(result.samples) for result in batch] == [12, 12, 12]
    assert fk.steer(tasks[0], reward, particles=12).seed != fk.steer(tasks[0], reward, particles=12).seed


def test_the_number_of_threads_changes_nothing(tiny_lm) -> None:
    import torch

    task, texts = tiny_lm().prompt("a", max_tokens=20), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        texts.append(fk.steer(task, fk.reward(lambda text: text.count("b")), particles=40, seed=4).texts)
    assert texts[0] == texts[1]


def test_impossible_and_invalid_constraints_are_refused_by_name(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=5)
    cases = (
        (lambda: fk.regex("z+"), "z"),
        (lambda: fk.regex("(a"), "regex"),
        (lambda: fk.json_schema({"type": "integer", "minimum": 3, "maximum": 2}), "schema"),
        (lambda: fk.json_schema({"not": {}}, unsupported="refuse"), "no value meets it"),
        (lambda: fk.json_schema({"not": {"const": 3}}, unsupported="refuse"), "#/not"),
        (lambda: fk.json_schema("{"), "JSON"),
        (lambda: fk.grammar("start: nonsense"), "nonsense"),
    )
    for make, named in cases:
        with pytest.raises(fk.ConstraintError, match=named):
            fk.steer(task, make(), particles=4)


def test_changing_the_resampler_does_not_change_the_proposals(tiny_lm) -> None:
    seen: dict[str, list[list[str]]] = {}

    def observer(name):
        def look(step: Step) -> None:
            if step.t == 0:
                seen.setdefault(name, []).append(step.state.texts(range(len(step.state))))

        return look

    task = tiny_lm().prompt("a", max_tokens=4)
    for name in ("ssp", "multinomial", "killing"):
        fk.steer(task, particles=16, seed=3, resampler=name, observers=[observer(name)])
    assert seen["ssp"] == seen["multinomial"] == seen["killing"]


@pytest.mark.parametrize("algorithm", ["smc", "optimal", "importance", "best_of_n", "beam"])
@pytest.mark.parametrize("islands", [1, 2])
def test_every_algorithm_finds_the_same_evidence(tiny_lm, algorithm, islands) -> None:
    task = tiny_lm().prompt("a", max_tokens=2)
    reward = fk.reward(lambda text: text.count("b"))
    truth = math.exp(fk.steer(task, reward, algorithm="exact").log_evidence)
    runs = [fk.steer(task, reward, particles=64, algorithm=algorithm, islands=islands, seed=seed) for seed in range(40)]
    z = np.exp([run.log_evidence for run in runs])
    error = 4.5 * z.std(ddof=1) / math.sqrt(len(z))  # false alarm: 6e-5 a case, by Student's law of 40 runs
    assert abs(z.mean() - truth) < error + 1e-6 * truth  # float32 logits, forwarded in other batches
    assert len(runs[0].samples) == {"beam": 128, "optimal": 256}.get(algorithm, 64)


def test_a_resampler_may_be_a_value_and_potentials_may_be_functions(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=5)
    result = fk.steer(
        task, lambda text: "e" not in text, lambda text: 0.5 * len(text), particles=32,
        resampler=adaptive(systematic, ess=0.9), seed=0,
    )  # fmt: skip
    assert all("e" not in text for text in result.posterior())


def test_the_history_is_the_family_tree(tiny_lm) -> None:
    result = fk.steer(
        tiny_lm().prompt("a", max_tokens=10), fk.reward(lambda text: 3.0 * text.count("a")), particles=16, seed=2
    )
    history = result.history
    assert history.resampled and len(history.ess) == len(history.rows) == len(history.unique_ancestors)
    roots = np.arange(16)
    for rows, count in zip(history.rows, history.unique_ancestors, strict=True):
        roots = roots[rows]
        assert len(np.unique(roots)) == count
    assert result.timing.total >= result.timing.model > 0.0


def test_death_is_an_error_that_names_the_culprit_or_a_dead_result(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=3)
    never = fk.constraint(lambda text: False)
    with pytest.raises(fk.AllParticlesDied, match="all 4 particles had died by step") as caught:
        fk.steer(task, never, particles=4, seed=0)
    assert len(caught.value.partial.samples) == 4
    dead = fk.steer(task, never, particles=4, seed=0, on_death="return")
    assert dead.log_evidence == -math.inf and dead.posterior() == {} and dead.weights.sum() == 0.0
    assert "rejects" in dead.warnings[0]
    for ask in (lambda: dead.best, dead.sample, lambda: dead.expectation(len)):
        with pytest.raises(fk.AllParticlesDied):
            ask()


def test_ctrl_c_keeps_what_was_computed(tiny_lm) -> None:
    def interrupt(step: Step) -> None:
        if step.t == 3:
            raise KeyboardInterrupt

    result = fk.steer(tiny_lm().prompt("a", max_tokens=50), particles=8, seed=0, observers=[interrupt])
    assert not result.complete and len(result.history.ess) == 4
    assert max(map(len, result.texts)) <= 4 and "stopped after step 3" in result.warnings[0]


def test_an_observer_can_end_the_run(tiny_lm) -> None:
    result = fk.steer(tiny_lm().prompt("a", max_tokens=50), particles=8, seed=0, observers=[lambda step: step.t == 1])
    assert not result.complete and len(result.history.ess) == 2


@pytest.mark.parametrize("algorithm", ["smc", "optimal", "importance", "best_of_n", "beam", "gibbs", "exact"])
def test_every_algorithm_closes_its_observers_once_however_it_ends(tiny_lm, algorithm) -> None:
    class Watch:
        closed = 0

        def __call__(self, step: object) -> None:
            pass

        def close(self) -> None:
            self.closed += 1

    def fail(text: str) -> float:
        raise RuntimeError(text)

    watch, task = Watch(), tiny_lm().prompt("a", max_tokens=2)
    fk.steer(task, fk.regex("[ab]*"), algorithm=algorithm, particles=4, seed=0, observers=[watch])
    assert watch.closed == 1
    with pytest.raises(fk.PotentialError):
        fk.steer(task, fk.reward(fail), algorithm=algorithm, particles=4, seed=0, observers=[watch])
    assert watch.closed == 2


def test_a_failing_reward_names_itself_and_hands_over_the_particles(tiny_lm) -> None:
    def fussy(text: str) -> float:
        if len(text) == 3:
            raise RuntimeError("no texts of three letters")
        return 0.0

    with pytest.raises(fk.PotentialError, match="fussy") as caught:
        fk.steer(tiny_lm().prompt("a", max_tokens=20), fk.reward(fussy), particles=8, seed=0)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert caught.value.partial.history.ess and not caught.value.partial.complete
    with pytest.raises(fk.PotentialError, match=r"nan.*-inf to kill a particle"):
        fk.steer(tiny_lm().prompt("a", max_tokens=20), fk.reward(lambda text: float("nan")), particles=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"particles": 0}, "at least 1"),
        ({"particles": 2.5}, "at least 1"),
        ({"particles": True}, "at least 1"),
        ({"islands": 3}, "must divide"),
        ({"algorithm": "mcmc"}, "smc, optimal, importance, best_of_n, beam, gibbs"),
        ({"sweeps": 3}, "for algorithm='gibbs' only"),
        ({"algorithm": "gibbs", "sweeps": 1}, "at least 2"),
        ({"algorithm": "gibbs", "sweeps": True}, "at least 2"),
        ({"algorithm": "gibbs", "particles": 1}, "at least 2 for each"),
        ({"algorithm": "gibbs", "particles": 4, "islands": 4}, "at least 2 for each of the 4 islands"),
        ({"algorithm": "gibbs", "resampler": "systemic"}, "systematic"),
        ({"resampler": "systemic"}, "systematic"),
        ({"resampler": 3}, "name of a scheme"),
        ({"ess_threshold": 1.5}, "ess"),
        ({"on_death": "ignore"}, "'raise' or 'return'"),
    ],
)
def test_bad_options_say_what_is_wrong(tiny_lm, options, message) -> None:
    with pytest.raises(fk.ArgumentError, match=message):
        fk.steer(tiny_lm().prompt("a"), **options)


def test_bad_models_and_potentials_say_what_is_wrong(tiny_lm) -> None:
    with pytest.raises(fk.ArgumentError, match="no model"):
        fk.steer("The weather today is", fk.regex("a"))
    with pytest.raises(fk.ArgumentError, match="empty list"):
        fk.steer([], fk.regex("a"))
    with pytest.raises(fk.ArgumentError, match="no potential"):
        fk.steer(tiny_lm().prompt("a"), "[^e]*")
    with pytest.raises(fk.ArgumentError, match="one CausalLM"):
        fk.steer([tiny_lm().prompt("a"), tiny_lm().prompt("b")])


# --- best of N and particle Gibbs ----------------------------------------------------------------------------------


def test_best_of_n_draws_from_the_model_itself_and_best_is_the_largest_reward(tiny_lm) -> None:
    task = tiny_lm().prompt("a", max_tokens=6)
    plain = fk.steer(task, particles=32, seed=3, algorithm="importance")
    result = fk.steer(
        task, fk.regex("[ab]*"), fk.reward(lambda text: 0.2 * len(text)), particles=32, seed=3, algorithm="best_of_n"
    )
    assert result.texts == plain.texts and any("e" in text for text in result.texts)
    obeying = [text for text in result.texts if "e" not in text]
    assert len(result.best) == max(map(len, obeying)) and "e" not in result.best
    assert result.history.resampled == [] and result.algorithm == "best_of_n"
    assert f"best of 32: {result.best!r}, log-weight {0.2 * len(result.best):.2f} nats" in result.summary()


def test_best_of_n_when_none_obeys(tiny_lm) -> None:
    with pytest.raises(fk.AllParticlesDied, match=r"rejects [1-4] finished"):
        fk.steer(tiny_lm().prompt("a", max_tokens=2), fk.constraint(lambda text: False), particles=4,
                 algorithm="best_of_n")  # fmt: skip


def test_gibbs_pools_its_sweeps(tiny_lm) -> None:
    seen, task = [], tiny_lm().prompt("a", max_tokens=4)
    result = fk.steer(task, fk.reward(lambda text: text.count("b")), particles=6, algorithm="gibbs", sweeps=5, seed=1,
                      observers=[lambda step: seen.append(step.t)])  # fmt: skip
    assert len(result.samples) == 4 * 6 and result.complete and result.algorithm == "gibbs"
    np.testing.assert_allclose(result.weights.reshape(4, 6).sum(axis=1), 0.25)
    history = result.history
    assert len(history.sweeps) == 5 and [seen[start] for start in history.sweeps] == [0] * 5
    assert len(history.ess) == len(history.rows) == len(seen)
    first = fk.steer(task, fk.reward(lambda text: text.count("b")), particles=6, algorithm="gibbs", sweeps=2, seed=1)
    assert result.log_evidence == first.log_evidence == pytest.approx(history.log_evidence[history.sweeps[1] - 1])
    assert result.forwarded_tokens > first.forwarded_tokens > 0
    assert "were the sweeps independent" in result.summary() and 0 < result.timing.model < result.timing.total


def test_the_error_of_the_evidence_is_that_of_the_first_sweeps(tiny_lm) -> None:
    task, reward = tiny_lm().prompt("a", max_tokens=3), fk.reward(lambda text: text.count("b"))
    options = {"particles": 8, "algorithm": "gibbs", "sweeps": 2, "seed": 0, "resampler": "multinomial"}
    four = fk.steer(task, reward, islands=4, ess_threshold=1.0, **options)
    ends = [*four.history.sweeps[1:], len(four.history.ess)]
    z = np.exp([four.history.log_evidence[end - 1] for end in ends[::2]])  # of each chain, the first sweep
    assert four.log_evidence == pytest.approx(math.log(z.mean()))
    assert four.log_evidence_se == pytest.approx(z.std(ddof=1) / z.mean() / 2)
    assert fk.steer(task, reward, ess_threshold=1.0, **options).log_evidence_se is None


def test_problems_under_gibbs_take_turns_and_do_not_disturb_each_other(tiny_lm) -> None:
    lm = tiny_lm()
    tasks, options = [lm.prompt("a", max_tokens=5), lm.prompt("bb", max_tokens=3)], {"particles": 4, "seed": 2}
    both = fk.steer(tasks, fk.regex("[ab]*"), algorithm="gibbs", sweeps=3, **options)
    alone = fk.steer(tasks[0], fk.regex("[ab]*"), algorithm="gibbs", sweeps=3, **options)
    assert both[0].texts == alone.texts and [len(result.samples) for result in both] == [8, 8]
    np.testing.assert_array_equal(both[0].log_weights, alone.log_weights)


def interrupting(after: int):
    seen = []

    def interrupt(step: Step) -> None:
        seen.append(step.t)
        if seen.count(0) == after:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize(("after", "kept"), [(1, 4), (2, 4), (3, 4), (5, 12)])
def test_ctrl_c_keeps_the_finished_sweeps(tiny_lm, after, kept) -> None:
    result = fk.steer(tiny_lm().prompt("a", max_tokens=8), particles=4, algorithm="gibbs", sweeps=9, seed=0,
                      observers=[interrupting(after)])  # fmt: skip
    assert not result.complete and len(result.samples) == kept
    assert len(result.history.sweeps) == (after - 1) and "stopped after" in result.warnings[0]


def test_ctrl_c_before_every_problem_has_begun(tiny_lm) -> None:
    lm = tiny_lm(eos=())
    tasks = [lm.prompt(prompt, max_tokens=4) for prompt in ("a", "b", "ab")]
    with pytest.raises(fk.ModelError, match="when 2 of 3 problems had begun") as caught:
        fk.steer(tasks, particles=4, algorithm="gibbs", observers=[interrupting(2)])
    assert [len(result.samples) for result in caught.value.partial] == [4, 4]
    with pytest.raises(fk.ModelError, match="when 1 of 3 problems had begun"):
        fk.steer(tasks, particles=4, algorithm="gibbs", observers=[interrupting(1)])


def test_an_observer_can_end_gibbs_and_is_closed_once(tiny_lm) -> None:
    class Observer:
        steps = closed = 0

        def __call__(self, step: Step) -> bool:
            self.steps += 1
            return self.steps == 12

        def close(self) -> None:
            self.closed += 1

    observer = Observer()
    result = fk.steer(tiny_lm(eos=()).prompt("a", max_tokens=5), particles=4, algorithm="gibbs", observers=[observer])
    assert not result.complete and len(result.samples) == 4 and observer.steps == 12 and observer.closed == 1
    assert "stopped after sweep 2 of 10" in result.warnings[0]


def test_gibbs_that_dies_at_once(tiny_lm) -> None:
    task, never = tiny_lm().prompt("a", max_tokens=3), fk.constraint(lambda text: False)
    for islands in (1, 2):
        options = {"particles": 4, "algorithm": "gibbs", "islands": islands, "seed": 0}
        with pytest.raises(fk.AllParticlesDied, match="particles had died by step"):
            fk.steer(task, never, **options)
        dead = fk.steer(task, never, on_death="return", **options)
        assert dead.log_evidence == -math.inf and len(dead.samples) == 4 and dead.posterior() == {}


def test_gibbs_says_when_its_path_stands_still(tiny_lm) -> None:
    result = fk.steer(tiny_lm(spread=1.0).prompt("a", max_tokens=4), fk.reward(lambda text: -60.0 * len(text)),
                      particles=2, algorithm="gibbs", sweeps=12, seed=1)  # fmt: skip
    assert [warning for warning in result.warnings if "the path moved in" in warning]


def test_gibbs_needs_a_model_that_walks_a_path_again() -> None:
    class Forgetful:
        def init(self, n, rng): ...
        def step(self, t, state, rng): ...
        def done(self, state): ...

    with pytest.raises(fk.ArgumentError, match=r"Forgetful cannot run under gibbs.*replay.*trace"):
        fk.steer(Forgetful(), algorithm="gibbs")


def test_an_error_under_gibbs_hands_over_the_sweeps(tiny_lm) -> None:
    asked = []

    def fussy(text: str) -> float:
        asked.append(text)
        if len(asked) > 100:
            raise RuntimeError("tired")
        return 0.0

    with pytest.raises(fk.PotentialError, match="tired") as caught:
        fk.steer(
            tiny_lm().prompt("a", max_tokens=4), fk.reward(fussy), particles=4, algorithm="gibbs", seed=0, sweeps=99
        )
    assert len(caught.value.partial.history.sweeps) > 1 and not caught.value.partial.complete


def test_a_result_of_gibbs_survives_a_file(tiny_lm, tmp_path) -> None:
    result = fk.steer(tiny_lm().prompt("a", max_tokens=3), particles=4, algorithm="gibbs", sweeps=3, seed=0)
    result.to_json(tmp_path / "gibbs.json")
    back = fk.Result.from_json(tmp_path / "gibbs.json")
    assert back.history == result.history and back.algorithm == "gibbs"


def test_the_bar_of_gibbs_counts_sweeps(tiny_lm, capsys) -> None:
    fk.steer(tiny_lm().prompt("a", max_tokens=3), particles=4, islands=2, algorithm="gibbs", sweeps=3, progress=True)
    assert "6/6" in capsys.readouterr().err


def test_a_network_that_runs_when_a_potential_looks_is_the_model_s_time() -> None:
    import time

    import torch

    from feynkac.models.diffusion import DiffusionSampler, ddpm

    class Slow:
        def x0hat(self, x, level):
            time.sleep(0.02)
            return 0.5 * x

    def quick(x: torch.Tensor) -> torch.Tensor:
        return x.sum()

    result = fk.steer(DiffusionSampler(Slow(), ddpm(10), (2,)), fk.reward(quick), particles=2, seed=0)
    assert result.timing.model > 0.15 and result.timing.model > result.timing.potentials
    assert result.timing.model + result.timing.potentials <= result.timing.total
