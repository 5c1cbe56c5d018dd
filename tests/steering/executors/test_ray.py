"""On Ray itself, two nodes on this machine: the same bits, a worker killed in mid-run, Ctrl-C, a worker's error.

Run with `make test-ray`; most of its time is that of processes that start.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import feynkac as fk

ray = pytest.importorskip("ray", reason="pip install 'feynkac[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]


class Paths:
    def __init__(self, steps: Any) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return len(self.steps)

    def fork(self, rows: Any) -> Paths:
        return Paths(self.steps[rows])

    def samples(self, rows: Any) -> list[Any]:
        return [tuple(path) for path in self.steps[rows].tolist()]


class Walk:
    """Ten steps up or down, in each of which the worker sleeps; whoever finds no file `killed` dies in the fifth."""

    def __init__(self, sleep: float = 0.0, killed: Path | None = None) -> None:
        self.sleep, self.killed = sleep, killed

    def init(self, n: int, rng: Any) -> Paths:
        return Paths(np.zeros((n, 0)))

    def step(self, t: int, state: Paths, rng: Any) -> tuple[Paths, Any]:
        time.sleep(self.sleep)
        if t == 4 and self.killed is not None and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        drawn = np.where(rng.uniform(len(state)) < 0.3, 1.0, -1.0)
        return Paths(np.column_stack([state.steps, drawn])), np.zeros(len(state))

    def done(self, state: Paths) -> Any:
        return np.full(len(state), state.steps.shape[1] == 10)


class Dies(Walk):
    def step(self, t: int, state: Paths, rng: Any) -> tuple[Paths, Any]:
        if t == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(t, state, rng)


class EndsHigh:
    name = "high"

    def level(self, t: int, state: Paths, rows: Any) -> Any:
        return state.steps[rows].sum(axis=1)

    def final(self, state: Paths, rows: Any) -> Any:
        return state.steps[rows].sum(axis=1)


class Fails(EndsHigh):
    def level(self, t: int, state: Paths, rows: Any) -> Any:
        if t == 3:
            raise ZeroDivisionError("over there")
        return super().level(t, state, rows)


OPTIONS: dict[str, Any] = {"particles": 32, "islands": 4, "seed": 0}


@pytest.fixture(scope="module")
def executor() -> Iterator[fk.RayExecutor]:
    import cloudpickle
    from ray.cluster_utils import Cluster

    import tests.steering.executors.test_ray as here

    cloudpickle.register_pickle_by_value(here)  # workers do not have the tests
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        with fk.RayExecutor(workers=2, jobs=4, address=cluster.address, patience=300.0) as found:
            yield found
    finally:
        cluster.shutdown()


def test_islands_on_two_nodes_have_the_bits_of_one_process(executor) -> None:
    want = fk.steer(Walk(), EndsHigh(), executor=fk.LocalExecutor(jobs=4), **OPTIONS)
    found = fk.steer(Walk(), EndsHigh(), executor=executor, **OPTIONS)
    assert found.samples == want.samples and np.array_equal(found.log_weights, want.log_weights)
    assert found.warnings == want.warnings and found.history == want.history
    assert len({node["NodeID"] for node in ray.nodes() if node["Alive"]}) == 2


def test_a_worker_killed_in_mid_run_loses_its_island_only_for_a_while(executor, tmp_path) -> None:
    want = fk.steer(Walk(), EndsHigh(), executor=fk.LocalExecutor(jobs=4), **OPTIONS)
    found = fk.steer(Walk(0.05, tmp_path / "killed"), EndsHigh(), executor=executor, **OPTIONS)
    assert found.samples == want.samples and np.array_equal(found.log_weights, want.log_weights)
    assert "a worker was lost once" in found.warnings[0] and found.complete


def test_a_piece_that_kills_every_worker_is_given_up(executor) -> None:
    with fk.RayExecutor(workers=1, retries=0, patience=300.0) as one:
        executor._pool.close()  # which makes room
        with pytest.raises(fk.ModelError, match="job 1 lost its worker 1 times"):
            fk.steer(Dies(), EndsHigh(), executor=one, **OPTIONS)


def test_an_error_over_there_arrives_with_its_cause_and_its_particles(executor) -> None:
    with pytest.raises(fk.PotentialError, match="over there") as caught:
        fk.steer(Walk(), Fails(), executor=executor, **OPTIONS)
    assert caught.value.step == 3 and isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not caught.value.partial.complete


def test_ctrl_c_keeps_what_the_workers_have(executor) -> None:
    fk.steer(Walk(), EndsHigh(), executor=executor, **OPTIONS)  # all workers are there
    threading.Timer(2.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    found = fk.steer(Walk(0.5), EndsHigh(), executor=executor, **OPTIONS)
    assert not found.complete and 0 < len(found.samples) < 32
    again = fk.steer(Walk(), EndsHigh(), executor=executor, **OPTIONS)
    assert again.complete and len(again.samples) == 32


def test_a_language_model_is_kept_by_its_workers(executor, tiny_lm) -> None:
    lm = tiny_lm()
    tasks = [lm.prompt("a", max_tokens=6), lm.prompt("bba", max_tokens=7), lm.prompt("e", max_tokens=9)]
    parts = []
    for seed in (5, 6):
        options = {"particles": 8, "seed": seed}
        found = fk.steer(tasks, fk.regex("[ab]*"), executor=executor, **options)
        want = fk.steer(tasks, fk.regex("[ab]*"), executor=fk.LocalExecutor(jobs=4), **options)
        assert [each.texts for each in found] == [each.texts for each in want]
        parts.append([set(worker.keys) for worker in executor._pool._workers if worker.keys])
    assert set.union(*parts[0]) == set.union(*parts[1])


def test_more_workers_than_there_is_room_for_are_refused_at_once(executor) -> None:
    with pytest.raises(fk.FeynkacError, match="room for 2 of 64 workers"):
        fk.steer(Walk(), EndsHigh(), executor=fk.RayExecutor(workers=64), **OPTIONS)
