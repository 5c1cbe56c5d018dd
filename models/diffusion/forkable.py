"""Whether the networks of a pipeline remember earlier steps, which would stay with the slot when particles fork."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feynkac.base.errors import ModelError
from feynkac.models.diffusion.checks import differ

SMALL = 8
"""Below how many particles the first fork is left alone."""
MOMENTA = {"edit_momentum_scale": "editing_prompt", "sld_momentum_scale": "sld_guidance_scale"}
"""Arguments that scale a momentum, and how those begin that turn its guidance on: that of concepts, and that away from
unsafe images."""
GUIDER_MOMENTUM = "adaptive_projected_guidance_momentum"
"""The attribute of a guider, and the argument that makes it."""
HOOKS = "_diffusers_hook"
"""The attribute of a module with its hooks of diffusers, where it has any."""
HARMLESS = ("TextKVCache",)
"""What is remembered of the prompt alone is the same for all particles."""


def find_cache(pipe: Any) -> str:
    """The name of a hook of diffusers that keeps what a network computed at earlier steps; empty if there is none."""
    return next((name for name in list_memories(list_modules(pipe)) if not name.startswith(HARMLESS)), "")


def list_modules(pipe: Any) -> list[torch.nn.Module]:
    """The modules of all networks of `pipe`."""
    networks = (each for each in vars(pipe).values() if isinstance(each, torch.nn.Module))
    return [module for network in networks for module in network.modules()]


def list_memories(modules: Iterable[torch.nn.Module]) -> Iterator[str]:
    """The names of hooks of diffusers on `modules` that keep what was computed at earlier calls."""
    for module in modules:
        for hook in getattr(vars(module).get(HOOKS), "hooks", {}).values():
            if getattr(hook, "_is_stateful", False):
                yield type(hook).__name__


def find_momentum(pipe: Any, call: Mapping[str, Any]) -> str:
    """The argument by which the `call` of a pipeline keeps a momentum of its guidance; empty if it keeps none."""
    taken = inspect.signature(type(pipe).__call__).parameters
    for momentum, switch in MOMENTA.items():
        if momentum in taken and call.get(momentum, taken[momentum].default):
            values = (call.get(name, each.default) for name, each in taken.items() if name.startswith(switch))
            if any(value is not None and not (isinstance(value, int | float) and value <= 1.0) for value in values):
                return momentum
    return ""


def is_guider(component: Any) -> bool:
    """Whether it is a guider of diffusers, which counts steps, and may remember them, while a pipeline runs."""
    return any(each.__module__.startswith("diffusers.guiders") for each in type(component).__mro__)


def is_scheduler(component: Any) -> bool:
    """Whether it is a scheduler of diffusers, which a call sets to its steps."""
    return any(each.__name__ == "SchedulerMixin" for each in type(component).__mro__)


def is_pipeline(component: Any) -> bool:
    """Whether it is a pipeline of diffusers, as another may call it."""
    return any(each.__name__ == "DiffusionPipeline" for each in type(component).__mro__)


def is_tokenizer(component: Any) -> bool:
    """Whether it is a tokenizer of transformers, of which some calls choose the side that is padded."""
    return any(each.__name__ == "PreTrainedTokenizerBase" for each in type(component).__mro__)


def find_prior(pipe: Any) -> str:
    """The name in `pipe` of a pipeline that it calls and that has another scheduler; empty if there is none."""
    for name, component in vars(pipe).items():
        if is_pipeline(component) and getattr(component, "scheduler", None) is not pipe.scheduler:
            return name
    return ""


def find_guider(pipe: Any) -> str:
    """The name in `pipe` of a guider with a momentum; empty if there is none."""
    for name, component in vars(pipe).items():
        if is_guider(component) and getattr(component, GUIDER_MOMENTUM, None):
            return name
    return ""


def check_memory(pipe: Any, calls: Sequence[Mapping[str, Any]]) -> None:
    """Raises ModelError where `pipe`, in any of `calls`, is known by name to remember earlier steps."""
    name, otherwise = type(pipe).__name__, "algorithm='best_of_n' or 'importance', which copy nothing"
    cache = find_cache(pipe)
    if cache:
        raise ModelError(
            f"{name} cannot be steered: its network keeps what it computed at earlier steps ({cache}), which would not "
            f"be copied with the particles; call disable_cache() on it, or take {otherwise}"
        )
    guider = find_guider(pipe)
    if guider:
        raise ModelError(
            f"{name} cannot be steered with the momentum of its guider, which would not be copied with the particles; "
            f"set pipe.{guider} = pipe.{guider}.new({GUIDER_MOMENTUM}=None), or take {otherwise}"
        )
    prior = find_prior(pipe)
    if prior:
        raise ModelError(
            f"{name} cannot be steered: its {prior} draws a condition for each sample, which would not be copied with "
            f"the particles; steer the pipeline that comes after it, with what a call of pipe.{prior} returns, or take "
            f"{otherwise}"
        )
    momentum = next(filter(None, (find_momentum(pipe, call) for call in calls)), "")
    if momentum:
        raise ModelError(
            f"{name} cannot be steered with its momentum, which would not be copied with the particles; call "
            f"prompt(..., {momentum}=0.0), or take a DiffusionSampler on an EditedDenoiser, whose momentum is, or "
            f"{otherwise}"
        )


class ForkCheck:
    """Before each fork of a run: `check` in full the first time, and then only where a network has got a memory since.

    Arguments and guiders are the run's own by then, but a callback may turn a cache on in a network of `pipe`.
    """

    def __init__(self, pipe: Any, check: Callable[[], None]) -> None:
        self._pipe, self._check = pipe, check
        self._modules: list[torch.nn.Module] | None = None

    def __call__(self) -> None:
        """Raises what `check` does."""
        if self._modules is None or any(HOOKS in vars(module) for module in self._modules):
            self._check()
        if self._modules is None:
            self._modules = list_modules(self._pipe)


class Twins:
    """Pairs of particles that are given equal noise for one step after a fork, of which the network must say the same.

    Their slots belonged to different particles before, so that whatever the pipeline remembers of earlier steps (a
    cache of blocks, a momentum, conditions drawn for each slot) tells them apart. Equal noise for two siblings leaves
    each particle's law as it is, hence the weights proper and the evidence unbiased, and costs no pass of the network.
    It is done after the first, second, fourth, eighth ... fork of a problem.
    """

    def __init__(self, problems: int) -> None:
        self._forks = [0] * problems
        self._stopped = False
        self._pairs: list[tuple[int, int]] = []

    def pair(self, x: Tensor, group: NDArray[np.int64]) -> None:
        """Choose, of each problem, two rows of `x` (N, ...) that have just been copied from one particle."""
        before, self._pairs = self._pairs, []  # those who were twins in the step before must part now
        if self._stopped:
            return
        sums = x.flatten(1).double().sum(1).cpu().numpy()
        for g in range(len(self._forks)):
            rows = np.flatnonzero(group == g)
            found = next((pair for pair in _list_equal(x, rows, sums[rows]) if pair not in before), None)
            if found is None:
                continue
            self._forks[g] += 1
            spared = self._forks[g] == 1 and len(rows) < SMALL  # few particles have little noise to spare
            if self._forks[g].bit_count() == 1 and not spared:
                self._pairs.append(found)

    def stop(self) -> None:
        """Choose none from now on."""
        self._stopped, self._pairs = True, []

    def save(self) -> dict[str, Any]:
        """How many forks there were, and who are twins now, as plain values."""
        return {"forks": self._forks, "stopped": self._stopped, "pairs": self._pairs}

    def load(self, saved: dict[str, Any]) -> None:
        """Take up what `save` gave."""
        self._forks, self._stopped, self._pairs = saved["forks"], saved["stopped"], saved["pairs"]

    def share(self, generators: Sequence[torch.Generator]) -> list[torch.Generator]:
        """`generators`, one for each row, with those of each pair's second in the state of its first."""
        shared = list(generators)
        for one, other in self._pairs:
            shared[other] = torch.Generator(generators[one].device)
            shared[other].set_state(generators[one].get_state())
        return shared

    def compare(self, x: Tensor, output: Tensor, in_parts: bool = False) -> None:
        """Raises ModelError where the network's `output` (N, ...) tells twins apart whose latents `x` are equal.

        `in_parts`: twins may have been in batches of different sizes.
        """
        for one, other in self._pairs:
            if not torch.equal(x[one], x[other]):
                continue  # the path of conditional SMC, or a proposal that looks at the row
            if differ(output[one], output[other], in_parts):
                raise ModelError(
                    "the pipeline remembers earlier steps: its network says different things of two particles with "
                    "equal latents, so that particles cannot be copied. Turn off what is kept from step to step (a "
                    "cache of blocks, momentum) and what is drawn for each sample besides its latents, and put "
                    "networks in eval mode; or take algorithm='best_of_n' or 'importance', which copy nothing"
                )


def _list_equal(x: Tensor, rows: NDArray[np.int64], sums: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Pairs of `rows` whose latents are equal, as their `sums` hint."""
    order = np.argsort(sums, kind="stable")
    for k in np.flatnonzero(np.diff(sums[order]) == 0.0):
        one, other = sorted((int(rows[order[k]]), int(rows[order[k + 1]])))
        if torch.equal(x[one], x[other]):
            yield one, other
