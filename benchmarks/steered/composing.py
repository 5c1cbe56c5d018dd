"""Composition by attention: coloured shapes put into other backgrounds, against pasting and denoising alone."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from train import shapes

import feynkac as fk
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from steered.concepts import SCHEDULE, SHAPE, STEPS
from steered.runs import shares, steered
from steered.tables import table

BEGINS = (3, 5, 7)
"""The steps from which on the network draws: before them the picture is noise on what was pasted."""


class Task(NamedTuple):
    """A shape cut out with a margin of its old background, and pasted into a new one."""

    picture: Tensor
    box: Tensor
    """(8, 8) what was cut out, where the network may draw."""
    subject: Tensor
    """(8, 8) which pixels are the shape's."""
    truth: Tensor
    """(3, 8, 8) the shape on the new background."""
    words: Tensor


def tasks(n: int) -> list[Task]:
    """`n` of them."""
    source = torch.Generator().manual_seed(11)
    images, words, _, masks = shapes.draw(n, source)
    grounds = shapes.backgrounds(n, source)
    boxes = nn.functional.max_pool2d(masks, 3, stride=1, padding=1) > 0
    boxes = (boxes.any(3, keepdim=True) & boxes.any(2, keepdim=True)).expand_as(masks)
    parts = zip(torch.where(boxes, images, grounds), boxes[:, 0], masks[:, 0] > 0, images, grounds, words, strict=True)
    return [
        Task(picture, box, subject, torch.where(subject, image, ground), word)
        for picture, box, subject, image, ground, word in parts
    ]


def call(painter: shapes.Painter, words: Tensor, network: nn.Module, x: Tensor, time: float) -> Tensor:
    """The network's output under the words of the shape."""
    said = painter.say(words[None]).expand(len(x), -1, -1)
    return network(x, encoder_hidden_states=said, timestep=torch.full((len(x),), time), return_dict=False)[0]


def errors(task: Task, weights: Tensor, x: Tensor) -> tuple[float, float]:
    """Mean squared errors of (N, 3, 8, 8) samples: of the shape's pixels, and of the background around it."""
    off = torch.einsum("n,nchw->hw", weights.float(), (x - task.truth).square()) / 3.0
    return float(off[task.subject].mean()), float(off[task.box & ~task.subject].mean())


def draw(painter: shapes.Painter, task: Task, begin: int, particles: int, until: float, seen: bool) -> Any:
    """Errors of one composition; `seen`: the shape's pixels are observed, with noise of 0.3, and particles weighed."""
    denoiser = fd.ComposedDenoiser(
        painter.network, partial(call, painter, task.words), task.picture, task.box, words=(0,), kind="v_prediction",
        clip=1.0, start=SCHEDULE.transitions[begin].before.sigma + 1e-6, until=until,
    )  # fmt: skip
    mask = task.subject.expand(3, -1, -1)
    target = fp.observed(fp.inpainting(mask), task.picture[mask], noise=0.3)
    nothing = fk.reward(lambda x: torch.zeros(len(x)), every="end", batch=True)
    options = {} if seen else {"resample": schemes.never}
    sampler = fd.DiffusionSampler(denoiser, SCHEDULE, SHAPE)
    log_w, x = steered(sampler, target if seen else nothing, particles, 1, **options)
    return errors(task, torch.as_tensor(shares(log_w)[0]), x[0])


def compare(count: int, particles: int = 16) -> list[dict[str, Any]]:
    """Print the table, of `count` compositions."""
    painter, made = shapes.load(), tasks(count)
    even = torch.full((1,), 1.0)
    found: dict[str, Any] = {"pasted": [[errors(task, even, task.picture[None]) for task in made]] * len(BEGINS)}
    methods = {
        "pasted and denoised": (math.inf, False),
        "PrimeComposer, attention steered": (0.0, False),
        "pasted and denoised, shape observed": (math.inf, True),
        "PrimeComposer, shape observed": (0.0, True),
    }
    for name, (until, seen) in methods.items():
        found[name] = [[draw(painter, task, k, particles, until, seen) for task in made] for k in BEGINS]
    rows = []
    for name, each in found.items():
        row: dict[str, Any] = {"method": name}
        for begin, pairs in zip(BEGINS, each, strict=True):
            shape, ground = np.mean(pairs, axis=0)
            row |= {f"shape, from {begin}": float(shape), f"background, from {begin}": float(ground)}
        rows.append(row)
    table(
        rows, f"{count} compositions, mean squared errors; drawn from step {', '.join(map(str, BEGINS))} of {STEPS} on"
    )
    return rows
