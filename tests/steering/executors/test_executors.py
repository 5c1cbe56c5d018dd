"""What `steer` says and does with an executor: progress, Ctrl-C, deaths, errors, and what it refuses."""

from __future__ import annotations

import gc
import math
import socket
import sys
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.steering.executors.clusters import check_listening
from feynkac.steering.executors.on_ray import make_loss
from feynkac.steering.executors.pieces import Piece, run_piece
from feynkac.steering.executors.ray_worker import put_on
from tests.exact.toys import ChainModel, chain


class Losing:
    """An executor one of whose workers dies over a piece, so that another begins it again."""

    jobs = 4

    def run(self, call, pieces, keep, tell) -> None:
        for piece in reversed(pieces):  # they may end in any order
            tell(piece.number, 2)
            tell(piece.number, 0)
            keep(replace(run_piece(call, piece, lambda step: None), lost=int(piece.number == 2)))


def test_a_lost_worker_changes_nothing_but_a_warning() -> None:
    toy, options = chain(), {"particles": 8, "islands": 4, "seed": 1}
    want = fk.steer(toy.model, toy.potential, executor=fk.LocalExecutor(4), **options)
    found = fk.steer(toy.model, toy.potential, executor=Losing(), progress=True, **options)
    assert np.array_equal(want.log_weights, found.log_weights)
    assert "a worker was lost once" in found.warnings[0] and found.warnings[1:] == want.warnings
    assert found.complete


class Interrupted(ChainModel):
    """Somebody presses Ctrl-C in its nth step."""

    def __init__(self, steps: int, at: int) -> None:
        super().__init__(steps)
        self.left = at

    def step(self, t, state, rng):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().step(t, state, rng)


def test_ctrl_c_keeps_the_islands_that_are_done() -> None:
    toy = chain(3)
    options = {"particles": 8, "islands": 4, "seed": 1, "executor": fk.LocalExecutor(4)}
    whole = fk.steer(toy.model, toy.potential, **options)
    found = fk.steer(Interrupted(3, 8), toy.potential, **options)
    assert not found.complete and len(found.samples) == 6
    assert "3 of 4 islands had begun" in found.warnings[0] and "stopped after step 0" in found.warnings[1]
    # Two islands are done: of three, each weighs a third rather than a quarter.
    np.testing.assert_allclose(found.log_weights[:4], whole.log_weights[:4] + math.log(4 / 3))
    with pytest.raises(KeyboardInterrupt):
        fk.steer(Interrupted(3, 1), toy.potential, **options)


def test_ctrl_c_keeps_the_problems_that_are_done(tiny_lm) -> None:
    lm, seen = tiny_lm(), []

    def interrupt(text: str, problem) -> float:
        seen.append(problem.index)
        if problem.index == 1:
            raise KeyboardInterrupt
        return 0.0

    tasks = [lm.prompt("a", max_tokens=2) for _ in range(3)]
    with pytest.raises(fk.ModelError, match="stopped when 1 of 3 problems had begun") as caught:
        fk.steer(tasks, fk.reward(interrupt), particles=4, seed=0, executor=fk.LocalExecutor(3))
    assert len(caught.value.partial) == 1 and caught.value.partial[0].complete and set(seen) == {0, 1}


def test_an_error_in_one_piece_hands_over_the_others(tiny_lm) -> None:
    lm = tiny_lm()

    def fail(text: str, problem) -> float:
        if problem.index == 1 and len(text) > 1:
            raise ZeroDivisionError("no")
        return 0.0

    tasks = [lm.prompt("a", max_tokens=4) for _ in range(3)]
    with pytest.raises(fk.PotentialError, match="no") as caught:
        fk.steer(tasks, fk.reward(fail), particles=4, seed=0, executor=fk.LocalExecutor(3))
    first, second, third = caught.value.partial
    assert first.complete and not second.complete and third is None
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_islands_that_die_count_and_a_dead_problem_is_told(tiny_lm) -> None:
    lm = tiny_lm()
    rare = fk.constraint(lambda text: "b" in text)
    options = {"particles": 8, "islands": 8, "seed": 4, "executor": fk.LocalExecutor(3)}
    found = fk.steer(lm.prompt("a", max_tokens=2), rare, **options)
    parts = found.log_weights.reshape(8, 1)
    assert 0 < (parts == -np.inf).sum() < 8 and not any("died" in said for said in found.warnings)
    assert found.log_evidence == pytest.approx(math.log((parts > -np.inf).mean()), abs=1e-6)
    never = fk.constraint(lambda text: False)
    tasks = [(lm.prompt("a", max_tokens=2),), (lm.prompt("a", max_tokens=2), never)]
    with pytest.raises(fk.AllParticlesDied, match="problem 2 of 2") as caught:
        fk.steer(tasks, **options)
    assert caught.value.partial[0].log_evidence == pytest.approx(0.0)
    dead = fk.steer(tasks, on_death="return", **options)[1]
    assert dead.log_evidence == -math.inf and sum("died" in said for said in dead.warnings) == 1


def test_the_bar_counts_all_steps(tiny_lm, capsys) -> None:
    task = tiny_lm().prompt("a", max_tokens=5)
    fk.steer(task, particles=4, islands=2, seed=0, progress=True, executor=fk.LocalExecutor(2))
    assert "/10 " in capsys.readouterr().err  # two jobs of five steps, of which texts that end early take fewer


def test_what_one_process_refuses_is_refused_before_anything_is_sent(tiny_lm) -> None:
    class Untouched:
        jobs = 2

        def run(self, call, pieces, keep, tell) -> None:
            raise AssertionError("nothing is to run")

    task = tiny_lm().prompt("a", max_tokens=2)
    cases = (
        ({"resampler": "none such"}, "no resampler"),
        ({"observers": [lambda step: True]}, "observer"),
        ({"moves": fk.redraw(2, chains=3), "particles": 8}, "chains is 3"),
    )
    for options, said in cases:
        with pytest.raises(fk.ArgumentError, match=said):
            fk.steer(task, executor=Untouched(), **options)
    for wrong in (4, "ray", fk.LocalExecutor):
        with pytest.raises(fk.ArgumentError, match="executor is"):
            fk.steer(task, executor=wrong)
    with pytest.raises(fk.ArgumentError, match="jobs is 0"):
        fk.LocalExecutor(jobs=0)


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(fk.FeynkacError, match=r"pip install 'feynkac\[ray\]'"):
        fk.RayExecutor(workers=2)


def fake_ray(monkeypatch, nodes=(), fails: Exception | None = None):
    """A Ray with these nodes, or one that cannot be reached."""

    def init(**_):
        if fails:
            raise fails

    resources = {"CPU": sum(node.get("CPU", 0) for node in nodes), "GPU": sum(node.get("GPU", 0) for node in nodes)}
    ray = SimpleNamespace(
        is_initialized=lambda: False,
        init=init,
        shutdown=lambda: None,
        nodes=lambda: [{"Alive": True, "Resources": node} for node in nodes],
        cluster_resources=lambda: resources,
        available_resources=lambda: {"CPU": 1.0},
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def test_a_cluster_that_is_not_reached_says_what_to_do(monkeypatch) -> None:
    fake_ray(monkeypatch, fails=ConnectionError("nobody answers."))
    toy = chain()
    with pytest.raises(fk.FeynkacError, match=r"no Ray cluster is reached at auto: nobody answers\. Start one"):
        fk.steer(toy.model, toy.potential, executor=fk.RayExecutor(2, address="auto"))


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_an_address_where_nothing_answers_is_told_at_once_and_not_tried_for_minutes(monkeypatch, by) -> None:
    ray, toy = fake_ray(monkeypatch), chain()
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray is not to wait for it"))
    with socket.socket() as bound:  # a port that is taken, and at which nobody listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        if by == "environment":
            monkeypatch.setenv("RAY_ADDRESS", address)
        executor = fk.RayExecutor(2, address=address if by == "argument" else None)
        with pytest.raises(fk.FeynkacError, match=f"no Ray cluster is reached at {address}: .*refused.*Start one"):
            fk.steer(toy.model, toy.potential, executor=executor)


def test_an_address_without_a_port_says_how_one_is_written(monkeypatch) -> None:
    fake_ray(monkeypatch)
    with pytest.raises(fk.FeynkacError, match=r"reached at head: an address is HOST:PORT, such as head:6379\. Start"):
        fk.steer(chain().model, executor=fk.RayExecutor(2, address="head"))


def test_an_address_that_is_listened_at_or_that_ray_alone_understands_goes_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_listening(f"127.0.0.1:{server.getsockname()[1]}")
    for address in (None, "auto", "local", "ray://head:10001"):
        check_listening(address)


def test_workers_go_with_an_executor_that_is_dropped_unclosed(monkeypatch) -> None:
    fake_ray(monkeypatch, nodes=[{"CPU": 1.0}])
    executor = fk.RayExecutor(2)
    with pytest.raises(fk.FeynkacError, match="room for 1"):
        fk.steer(chain().model, executor=executor)
    assert executor._pool is not None
    found = weakref.ref(executor)
    gc.disable()  # nothing but the count of references frees it
    try:
        del executor
        assert found() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("options", "room"), [({"workers": 4, "threads": 2}, 3), ({"workers": 3, "gpus": 1.0}, 1), ({"workers": 9}, 8)]
)
def test_a_cluster_that_is_too_small_is_refused_rather_than_waited_for(monkeypatch, options, room) -> None:
    fake_ray(monkeypatch, nodes=[{"CPU": 5.0, "GPU": 1.0}, {"CPU": 3.0}])
    toy = chain()
    with pytest.raises(fk.FeynkacError, match=f"room for {room} of {options['workers']} workers") as caught:
        fk.steer(toy.model, toy.potential, executor=fk.RayExecutor(**options))
    assert "8 CPUs (1 free)" in str(caught.value) and "on 2 nodes, CPUs 5 + 3" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        *({"workers": 0}, {"threads": 0}, {"jobs": 0}, {"gpus": -1}, {"retries": -1}, {"patience": -3.0}),
        *({"address": 6379}, {"address": ""}, {"device": 0}, {"runtime_env": "."}, {"runtime_env": {1: 2}}),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(monkeypatch, options) -> None:
    fake_ray(monkeypatch)
    with pytest.raises(fk.ArgumentError, match=next(iter(options))):
        fk.RayExecutor(**{"workers": 2, **options})


def test_a_device_that_a_worker_does_not_have_is_told_with_what_gives_it_one() -> None:
    with pytest.raises(fk.ModelError, match=r"cannot put its model on device='cuda:99': .*gpus=1.*leave device= out"):
        put_on(torch.nn.Linear(1, 1), "cuda:99")
    assert put_on("no module", "cuda:99") == "no module"


def test_a_piece_that_lost_all_its_workers_is_told_in_whole_sentences() -> None:
    said = str(make_loss(Piece(0, range(1)), 3, RuntimeError("the actor died.\nmore of it")))
    assert "job 1 lost its worker 3 times, the last time by RuntimeError: the actor died. Where memory" in said
