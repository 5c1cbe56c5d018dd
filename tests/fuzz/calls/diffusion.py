"""Calls of diffusion and flow samplers, and of what goes with them."""

from __future__ import annotations

from typing import Any

import torch

import feynkac as fk
from calls.world import Call, World, look
from feynkac.models import diffusion as d
from feynkac.potentials import diffusion as potentials


def list_diffusion(world: World) -> dict[str, Call]:
    """Schedules, denoisers, proposals, potentials."""
    return {**_schedules(), **_denoisers(), **_proposals(), **_potentials()}


LAW = d.GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.0], [0.0, 1.0]]])


def _run(*potentials: Any, denoiser: Any = LAW, schedule: Any = None, **options: Any) -> None:
    model = d.DiffusionSampler(denoiser, schedule or d.ddpm(2), (2,), **options)
    look(fk.steer(model, *potentials, particles=2, seed=0, on_death="return"))


def _schedules() -> dict[str, Call]:
    def use(schedule: Any) -> None:
        _run(schedule=schedule)

    high, low = d.NoiseLevel(0.5, 0.8), d.NoiseLevel(0.9, 0.4)
    step, two = d.ancestral(high, low), d.ddpm(2)
    return {
        "ddpm": Call(d.ddpm, {"steps": 2}, use),
        "ddim": Call(d.ddim, {"steps": 2, "eta": 0.5}, use),
        "lcm": Call(d.lcm, {"steps": 2}, use),
        "euler_ancestral": Call(d.euler_ancestral, {"sigmas": [2.0, 1.0, 0.0]}, use),
        "flow": Call(d.flow, {"steps": 2, "eta": 0.5}, use),
        "edm": Call(d.edm, {"sigmas": [2.0, 1.0, 0.0]}, use),
        "karras_sigmas": Call(d.karras_sigmas, {"steps": 3}, lambda sigmas: use(d.edm([*sigmas, 0.0]))),
        "revisit": Call(d.revisit, {"schedule": two, "times": 2}, use),
        "chain": Call(d.chain, {"noise_levels": [high, low], "kernel": d.ancestral, "start": 1.0}, use),
        "NoiseSchedule": Call(d.NoiseSchedule, {"transitions": two.transitions, "start": 1.0}, use),
        "NoiseLevel": Call(d.NoiseLevel, {"alpha": 0.5, "sigma": 0.8}),
        "Transition": Call(d.Transition, {"before": high, "after": low, "c": 0.1, "std": 0.2}),
        "ancestral": Call(d.ancestral, {"before": high, "after": low}),
        "renoise": Call(d.renoise, {"before": low, "after": high}),
        "there_and_back": Call(d.there_and_back, {"step": step}),
    }


def _denoisers() -> dict[str, Call]:
    def use(denoiser: Any) -> None:
        _run(denoiser=denoiser)

    network, concept = d.Network(lambda x, time: x), d.Concept(LAW)
    edited = lambda guidance: use(d.EditedDenoiser(LAW, guidance))  # noqa: E731
    return {
        "DiffusionSampler": Call(
            d.DiffusionSampler,
            {"denoiser": LAW, "schedule": d.ddpm(2), "shape": (2,)},
            lambda model: look(fk.steer(model, particles=2, seed=0)),
        ),
        "Network": Call(d.Network, {"f": lambda x, time: x, "kind": "epsilon", "clip": 1.0}, use),
        "what a network returns": Call(
            lambda value: d.Network(lambda x, time: value), {"value": torch.zeros(2, 2)}, use
        ),
        "what decode returns": Call(
            lambda value: _run(fk.reward(lambda x: 0.0), decode=lambda x: value), {"value": torch.zeros(2, 2)}
        ),
        "GaussianMixture": Call(
            d.GaussianMixture, {"weights": [1.0], "means": [[0.0, 0.0]], "covariances": torch.eye(2)[None]}, use
        ),
        "generator": Call(
            d.generator, {"decode": lambda x: x, "shape": (2,), "steps": 2},
            lambda model: look(fk.steer(model, particles=2, seed=0)),
        ),
        "multiply": Call(d.multiply, {"denoisers": [network, LAW]}, use, many="denoisers"),
        "anneal": Call(d.anneal, {"denoiser": LAW, "power": 2.0}, use),
        "guide": Call(d.guide, {"conditional": LAW, "unconditional": network, "scale": 2.0}, use),
        "Composition": Call(d.Composition, {"experts": [(LAW, 1.0)]}, use, many="experts"),
        "Denoisers": Call(d.Denoisers, {"denoisers": [LAW, network]}),
        "Concept": Call(d.Concept, {"denoiser": LAW}, lambda made: edited(d.SemanticGuidance(made))),
        "SemanticGuidance": Call(d.SemanticGuidance, {"concepts": [concept]}, edited, many="concepts"),
        "EditedDenoiser": Call(d.EditedDenoiser, {"denoiser": LAW, "guidance": d.SemanticGuidance(concept)}, use),
        "on_pil": Call(
            d.on_pil, {"f": lambda image: 0.0}, lambda f: look(fk.steer(_PIXELS, fk.reward(f), particles=2))
        ),
    }  # fmt: skip


def _proposals() -> dict[str, Call]:
    def use(proposal: Any) -> None:
        _run(fk.reward(lambda x: -x.square().sum()), proposal=proposal)

    reward = fk.reward(lambda x: -x.square().sum())
    guidance = d.SemanticGuidance(d.Concept(LAW))
    return {
        "Guided": Call(d.Guided, {"potentials": [reward], "through": "x0hat", "trust": 1.0}, use, many="potentials"),
        "Blended": Call(d.Blended, {"posterior": LAW, "prior": LAW}, use),
        "EditedProposal": Call(d.EditedProposal, {"guidance": guidance}, use),
        "Langevin": Call(d.Langevin, {"potential": reward, "step": 0.1, "repeats": 1}),
        "what a guided reward returns": Call(
            lambda value: d.Guided(fk.reward(lambda x: x.sum() * value)), {"value": 0.5}, use
        ),
    }


def _potentials() -> dict[str, Call]:
    operator, y = potentials.linear(torch.eye(2)), torch.zeros(2)
    reward = fk.reward(lambda x: -x.square().sum(), batch=False)
    look_through = lambda made: _run(potentials.observed(made, y, 0.5))  # noqa: E731
    atoms = lambda energy: look(fk.steer(_ATOMS, energy, particles=2, seed=0, on_death="return"))  # noqa: E731
    return {
        "observed": Call(potentials.observed, {"operator": operator, "y": y, "noise": 0.5}, _run),
        "linear": Call(potentials.linear, {"matrix": torch.eye(2)}, look_through),
        "inpainting": Call(
            potentials.inpainting, {"mask": torch.ones(2) > 0}, look_through
        ),
        "superresolution": Call(potentials.superresolution, {"factor": 2}),
        "deblurring": Call(potentials.deblurring, {"kernel": torch.ones(1, 1), "height": 2, "width": 2}),
        "foreseen": Call(potentials.foreseen, {"potential": reward, "prior": LAW, "posterior": LAW}, _run),
        "distances": Call(potentials.distances, {"pairs": [(0, 1)], "least": 0.5, "most": 2.0}, atoms),
        "clashes": Call(potentials.clashes, {"radii": 0.5, "bonded": [(0, 1)]}, atoms),
        "chirality": Call(potentials.chirality, {"centres": [(0, 1, 2, 3)], "hands": [1]}, atoms),
        "twist of diffusion": Call(potentials.twist, {"f": lambda x, level: -x.square().sum(1)}, _run),
        "what a twist of diffusion returns": Call(
            lambda value: potentials.twist(lambda x, level: value), {"value": torch.zeros(2)}, _run
        ),
        "tempered": Call(potentials.tempered, {"potential": reward, "schedule": lambda t: 1.0}, _run),
        "tempered by signal": Call(potentials.tempered, {"potential": reward, "schedule": "signal", "ess": 0.9}, _run),
        "adaptively tempered": Call(potentials.tempered, {"potential": reward, "ess": 0.5}, _run),
        "reward of samples": Call(
            lambda value: fk.reward(lambda x: value, batch=True), {"value": torch.zeros(2)}, _run
        ),
    }  # fmt: skip


_ATOMS = d.DiffusionSampler(d.Network(lambda x, time: x), d.ddpm(2), (4, 3))
_PIXELS = d.DiffusionSampler(d.Network(lambda x, time: x), d.ddpm(2), (1, 4, 4))
