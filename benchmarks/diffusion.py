"""Steered diffusion beside what it is compared with, from one run; each part prints a table and its reading.

    python benchmarks/diffusion.py                        # all of it, about fifteen minutes on 2 cores
    python benchmarks/diffusion.py --quick                # small sizes: a minute or two, to see that it works
    python benchmarks/diffusion.py --mixture --digits     # some parts; see --help

Equal budgets (--mixture, --digits, --molecules, --texts, --conformers, --maze, --values). Every method has N
particles and evaluates the network once for each particle and step; many independent runs are pooled. "TV" is the
total variation, from 0 to 1, between what a method returns and the target p(x) exp(reward): by quadrature in one
dimension, else over the bins of two features, the truth of which comes from importance sampling with many samples of
the base model (its effective size is in the title). "exact draws" shows how much of a TV is the noise of so many
samples. TV must fall as N grows; a method whose TV does not follows another law. A reward above that of the exact
draws is over-optimised: its price is in the TV, and in what was not rewarded. Digits are judged by a classifier of
another family, trained on other images than the one that rewards ("accuracy"); of molecules, SA (hard to make, 1 to
10) and logP are not rewarded, and the means are over the unique valid ones. Of paths through a maze the share that
collides is not rewarded, and of reviews the perplexity under SmolLM2 and the number of words. "best" is the mean over
runs of the one sample that a user would keep. "published FK" is the weight logic of the code that was published with
FK steering (see `steered/published.py`).

Strong rewards (--guesses). The same targets by guesses that come in at another pace, with a network that errs in the
samples it first expects, as those of noise do, and with one that does not. Each cell: the RMSE of the log evidence of
one population, that of islands, and by how much the mean of what is rewarded is off. "nats" is the standard deviation
of the reward over samples of the model.

Inverse problems (--flowchef, --tractable, --depth, --inversion). What is seen of a digit or a scene, against the
posterior by importance sampling (`train/digits_truth.py`), or in closed form: "TV" of the classes of digits, "image"
the RMSE of the mean image (pixels from 0 to 1), all runs together, and "log Z" the RMSE of a run's log evidence in
nats, where there is one. "FlowChef as published" is shown with the best of its steps.

Semantic guidance (--concepts). A shape and a colour are asked for at once, of a network that takes prompts. "passes"
is how often a method calls the network for a particle and step; it has so many times fewer particles than N. SEGA's
samples follow the law of the edited denoiser, whose distance to the target is its TV; "rewarded" they are tilted within
that law, and EditedProposal makes the same moves and weighs them, for the target of the plain model. Z0 is the evidence
by many samples of the model itself (`train/shapes_truth.py`).

Compositions (--compositions). Shapes are cut out with a margin of their old background, pasted into a new one, and
drawn anew from some step on. Errors are those to the shape on the new background: of the shape's pixels, and of the
margin. Every method calls the network once for a particle and step; steered attention takes one more row, for the
picture.

Costs (--overhead, --gradients, --memory). Times are processor time of one thread, medians, both sides in turns. The
overhead is that of weights, resampling and a reward at every step over the same sampler without them. Of the two
gradients the error of the log evidence has to be at least as small for x0hat alone, in half of the time. Memory is the
peak of a process above that after a small run: with decoding in parts it grows by the latents and by the samples that
are returned, and by little else.

One line of JSON follows the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

PARTS = (
    "mixture", "digits", "guesses", "concepts", "compositions", "molecules", "texts", "conformers", "maze", "values",
    "overhead", "gradients", "memory", "flowchef", "tractable", "depth", "inversion",
)  # fmt: skip


def mixture(quick: bool) -> Any:
    from steered.mixture import compare

    return compare(1024 if quick else 8192)


def digits(quick: bool) -> Any:
    from steered.digits import compare

    return compare(64, 1024, range(2)) if quick else compare(256, 12_288)


def guesses(quick: bool) -> Any:
    from steered.guesses import compare

    return compare(4, 512) if quick else compare(48, 8192)


def concepts(quick: bool) -> Any:
    from steered.concepts import compare

    return compare(96 if quick else 768)


def compositions(quick: bool) -> Any:
    from steered.composing import compare

    return compare(2, 4) if quick else compare(32)


def molecules(quick: bool) -> Any:
    from steered.molecules import compare

    return compare(64, 256) if quick else compare(512, 4096)


def texts(quick: bool) -> Any:
    from steered.texts import compare

    return compare(128 if quick else 512)


def conformers(quick: bool) -> Any:
    from steered.conformers import compare

    return compare(512, 10_000) if quick else compare(4096, 100_000)


def maze(quick: bool) -> Any:
    from steered.policies import compare

    return compare(128, 4096, 2) if quick else compare(512, 100_000)


def values(quick: bool) -> Any:
    from steered.values import compare

    return compare(128, 4096, 16) if quick else compare(1024, 100_000, 192)


def overhead(quick: bool) -> Any:
    from steered.costs import analytic_overhead, network_overhead

    return network_overhead(1 if quick else 7) | analytic_overhead(1 if quick else 9)


def gradients(quick: bool) -> Any:
    from steered.gradients import compare

    return compare(32, 20, 1, 2) if quick else compare(256, 100, 4, 3)


def memory(quick: bool) -> Any:
    from steered.costs import memory as measured

    return measured((8, 16) if quick else (8, 16, 32, 64, 256))


def flowchef(quick: bool) -> Any:
    from steered.flowchef import compare

    return compare(8, 2) if quick else compare(16, 32)


def tractable(quick: bool) -> Any:
    from steered.tractable import compare

    return compare(8, 2) if quick else compare(16, 32)


def depth(quick: bool) -> Any:
    from steered.depth import compare

    return compare(4, 2, 1, 500) if quick else compare(16, 4, 8, 6000)


def inversion(quick: bool) -> Any:
    from steered.inversion import compare

    return compare(8, 2, 1) if quick else compare(32, 16, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, whose figures mean little")
    parts: dict[str, Callable[[bool], Any]] = {name: globals()[name] for name in PARTS}
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true", help="this part, and others that are named")
    options = parser.parse_args()
    chosen = [name for name in parts if getattr(options, name)] or list(parts)
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    found = {}
    for name in chosen:
        try:
            found[name] = parts[name](options.quick)
        except ImportError as missing:
            print(f"\n{name}: left out, {missing}")
    machine = {"torch": torch.__version__, "numpy": np.__version__, "cores": os.cpu_count(), "cpu": platform.machine()}
    line = {"benchmark": "diffusion", "quick": options.quick, "environment": machine, **found}
    print("\n" + json.dumps(line, default=lambda value: round(float(value), 4)))


if __name__ == "__main__":
    main()
