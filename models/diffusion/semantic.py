"""Semantic guidance: what a denoiser predicts, moved towards concepts, or away from them (SEGA, The Stable Artist).

With eps the noise expected anyway, and eps_e that under the prompt of a concept e,

    gamma = sum_e scale_e psi_e,    psi_e = eps_e - eps where it is among the largest, else 0
    eps  <- eps + gamma + s nu,     nu <- b nu + (1 - b) (gamma + s nu)

with a momentum nu, which belongs to a particle and is copied with it (Brack et al. 2022, "The Stable Artist"; 2023,
"SEGA", equations 5 to 9). An edited denoiser is a model with a law of its own; as a proposal the same move steers the
law of the model as it was, and its weights are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_finite, read_limit, read_real, read_share
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.checks import run_in_parts
from feynkac.models.diffusion.composition import Composition
from feynkac.models.diffusion.denoisers import Denoiser, Prediction, Predictor, ask, check_denoiser
from feynkac.models.diffusion.shifted import Shifted
from feynkac.models.diffusion.state import PROPOSAL_CARRY, Latents
from feynkac.models.diffusion.tree import gather


@dataclass(frozen=True)
class Concept:
    """What samples are moved towards: all that `denoiser` expects, which is mostly a network under another prompt.

    `scale`: how far, below 0 away from it. `threshold`: the share, from 0 to 1, of the coordinates of each channel that
    stay as they are, those that the concept changes least. It is applied while the noise has a standard deviation of
    at most `start` (the warm-up is over) and at least `stop` (the cool-down has not begun).

    Raises ArgumentError for what is no denoiser, and for other numbers than these.
    """

    denoiser: Denoiser | Predictor
    scale: float = 5.0
    threshold: float = 0.9
    start: float = math.inf
    stop: float = 0.0

    def __post_init__(self) -> None:
        check_denoiser("Concept", self.denoiser)
        scale = read_finite("Concept: scale", self.scale, ", below 0 to move away from the concept")
        threshold = read_share("Concept: threshold", self.threshold)
        if threshold == 1.0:
            raise ArgumentError("Concept: threshold is 1, which leaves all as it is; give a share below 1")
        start, stop = (read_limit(f"Concept: {name}", getattr(self, name)) for name in ("start", "stop"))
        for name, value in (("scale", scale), ("threshold", threshold), ("start", start), ("stop", stop)):
            object.__setattr__(self, name, value)
        if not self.stop < self.start:
            raise ArgumentError(
                f"Concept(start={quote(self.start)}, stop={quote(self.stop)}): standard deviations "
                "of the noise, the larger first"
            )

    def find_term(self, x: Tensor, t: NoiseLevel, plain: Prediction) -> Tensor:
        """(R, ...) scale * psi of latents `x` (R, ...), about which `plain` is said anyway."""
        psi = ask(self.denoiser, x, t).epshat - plain.epshat
        channels = psi.flatten(min(2, psi.ndim - 1))
        size = channels.abs() if torch.finfo(psi.dtype).bits >= 32 else channels.abs().float()
        large = size >= size.quantile(self.threshold, dim=-1, keepdim=True)
        return self.scale * torch.where(large, channels, 0.0).reshape(psi.shape)


class SemanticGuidance:
    """Moves towards `concepts`, all at once.

    `momentum` (s) is how much of the moves before is added once all concepts are applied, and `decay` (b) how much of
    them is kept at each level, where concepts that are still warming up count as well. `plain` is the denoiser from
    which concepts differ, such as a network without a prompt where what is edited has guidance of its own; None is what
    is edited, which saves its pass.

    Raises ArgumentError without a concept, and for numbers that are none.
    """

    def __init__(
        self,
        *concepts: Concept,
        momentum: float = 0.0,
        decay: float = 0.4,
        plain: Denoiser | Predictor | None = None,
    ) -> None:
        if not concepts or not all(isinstance(each, Concept) for each in concepts):
            raise ArgumentError("SemanticGuidance(): give one or more Concept(denoiser, scale)")
        if plain is not None:
            check_denoiser("SemanticGuidance: plain", plain)
        self.concepts, self.plain = concepts, plain
        self.momentum = read_real("SemanticGuidance: momentum", momentum, 0.0)
        self.decay = read_share("SemanticGuidance: decay", decay, ", the share of the momentum that is kept")

    def find_change(
        self, x: Tensor, t: NoiseLevel, said: Prediction, carry: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """By how much epshat moves (R, ...), and the momentum (R, ...) for the next level; None where there is none.

        `said` about the latents `x` is edited; `carry` is the momentum so far, None at the first level.
        """
        plain = said if self.plain is None or t.alpha == 0.0 else ask(self.plain, x, t)
        ready = [each.stop <= t.sigma <= each.start for each in self.concepts]
        terms = [
            # Pure noise is expected as it stands, whatever the prompt.
            torch.zeros_like(x) if t.alpha == 0.0 or not asked else each.find_term(x, t, plain)
            for each, asked in zip(self.concepts, self._list_asked(t), strict=True)
        ]
        change = _add((term for term, counts in zip(terms, ready, strict=True) if counts), x)
        if self.momentum == 0.0:
            return change, None
        nu = torch.zeros_like(x) if carry is None else carry
        whole = _add(terms, x) + self.momentum * nu
        warm = all(t.sigma <= each.start for each in self.concepts)
        return whole if warm else change, self.decay * nu + (1.0 - self.decay) * whole

    def _list_asked(self, t: NoiseLevel) -> list[bool]:
        """Which concepts are to be asked about: those that are applied, and for the momentum those that will be."""
        most = [math.inf if self.momentum else each.start for each in self.concepts]
        return [each.stop <= t.sigma <= start for each, start in zip(self.concepts, most, strict=True)]


_WEIGHED = (
    "{} cannot be edited: its weights are those of its own scores; edit its experts' network, or give the sampler "
    "proposal=EditedProposal(guidance), which keeps the composition as the target"
)


class EditedDenoiser:
    """`denoiser` with what it says moved by `guidance`: a model with a law of its own.

    Raises ArgumentError for a Composition, and what else has a rate of weight: it is that of its own scores.
    """

    def __init__(self, denoiser: Denoiser | Predictor, guidance: SemanticGuidance) -> None:
        if isinstance(denoiser, Composition):
            raise ArgumentError(_WEIGHED.format("a Composition"))
        check_denoiser("EditedDenoiser", denoiser)
        self.denoiser, self.guidance = denoiser, _check_guidance("EditedDenoiser", guidance)

    def predict_next(self, x: Tensor, t: NoiseLevel, carry: Tensor | None, /) -> Prediction:
        """x0hat and epshat (R, ...) with the edit, and the momentum as `carry`."""
        said = ask(self.denoiser, x, t)
        if said.rate is not None:
            raise ArgumentError(_WEIGHED.format(f"{type(self.denoiser).__name__}, which has a rate of weight,"))
        change, carry = self.guidance.find_change(x, t, said, carry)
        return Prediction(said.x0hat + _move_of(change, t), said.epshat + change, carry=carry)


class EditedProposal(Shifted):
    """The kernel of a model with its mean moved as an edit moves it, weighed: the target stays that of the model.

    The passes of the concepts' networks come on top of those of the model. `trust` bounds the move in each step, in
    nats (see `Shifted`): a step at the bound adds twice as much to the variance of the log-weight, so that weights of
    strong edits have a heavy tail. With `weighted=False` the samples are those of the edited denoiser, but follow no
    declared target.
    """

    def __init__(self, guidance: SemanticGuidance, trust: float | None = 1.0, weighted: bool = True) -> None:
        super().__init__(trust, weighted)
        self.guidance = _check_guidance("EditedProposal", guidance)

    def __repr__(self) -> str:
        biased = "" if self.weighted else ", weighted=False: biased"
        return f"EditedProposal({len(self.guidance.concepts)} concepts{biased})"

    def prepare(self, state: Latents) -> None:
        """Keep by how much x0hat is to move, and the momentum for the next level."""
        toward, momentum = torch.zeros_like(state.x), torch.zeros_like(state.x)
        for rows in state.sampler.batches(np.flatnonzero(state.alive)):
            index = torch.as_tensor(rows, device=state.x.device)
            for part, change, nu in run_in_parts(state, "the networks of concepts", index, partial(self._find, state)):
                toward[part] = _move_of(change, state.noise_level)
                if nu is not None:
                    momentum[part] = nu
        state.leaves["toward"] = toward
        if self.guidance.momentum:
            state.leaves[PROPOSAL_CARRY] = momentum

    def _find(self, state: Latents, part: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """`part`, the rows asked about, by how much their epshat moves, and their momentum."""
        rows = part.cpu().numpy()
        said = Prediction(*(gather(each, rows) for each in state.prediction))
        carry = gather(state.carry.get(PROPOSAL_CARRY), rows)
        with torch.no_grad():
            return part, *self.guidance.find_change(gather(state.x, rows), state.noise_level, said, carry)


def _check_guidance(who: str, guidance: object) -> SemanticGuidance:
    if not isinstance(guidance, SemanticGuidance):
        raise ArgumentError(f"{who}(guidance={quote(guidance)}): give a SemanticGuidance(Concept(denoiser, scale))")
    return guidance


def _add(terms: Iterable[Tensor], like: Tensor) -> Tensor:
    return sum(terms, torch.zeros_like(like))


def _move_of(change: Tensor, t: NoiseLevel) -> Tensor:
    """By how much x0hat moves where epshat moves by `change`."""
    return torch.zeros_like(change) if t.alpha == 0.0 else -t.sigma / t.alpha * change
