"""Discrete diffusion as a model of the engine."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Biased, Ranks, has
from feynkac.base.contract import LogW, Mask, Rng
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.base.masks import TokenConstraint
from feynkac.base.memory import Memory
from feynkac.base.numbers import read_count
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.canvas import Canvas
from feynkac.models.discrete.composition import Composition, sum_normalisers
from feynkac.models.discrete.denoiser import LogitsDenoiser, LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernel import Kernel
from feynkac.models.discrete.outputs import Outputs, find_width
from feynkac.models.discrete.path import CanvasPath, Past, ReplayedDraws
from feynkac.models.discrete.proposals import Base, Proposal, find_ranked_draw
from feynkac.models.discrete.reading import check_fit, check_parts, read_alphabet, read_given


class DiscreteDiffusion:
    """A reverse process over canvases of tokens: `kernel` says how, `denoiser` what to.

    Its law p is that of the sampler with these steps, all approximations included. `given`: (L,) token ids that stay,
    -1 where the canvas is open (masked diffusion only). `alphabet`: the clean tokens as a Vocabulary, or their number.
    It has the capabilities `Joins`, `Masks`, `Bounded`, `Biased`, `Replays` and `Saves`. Raises ArgumentError.
    """

    def __init__(
        self,
        denoiser: LogitsDenoiser | Composition,
        alphabet: Vocabulary | int,
        length: int,
        kernel: Kernel,
        *,
        proposal: Proposal | None = None,
        given: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> None:
        alphabet, k = read_alphabet(alphabet)
        length = read_count("DiscreteDiffusion: length", length)
        check_parts(denoiser, kernel, proposal)
        self.denoiser = denoiser
        self.alphabet = alphabet
        self.k = k
        self.length = length
        self.kernel = kernel
        self.proposal: Proposal = Base() if proposal is None else proposal
        check_fit(kernel, denoiser)
        self.given = read_given(given, length, k, kernel)[None]
        self.constraints: tuple[TokenConstraint, ...] = ()
        self.name = f"DiscreteDiffusion({type(kernel).__name__})"

    @property
    def biased(self) -> bool:
        """Whether the proposal leaves its weights out, so that the samples follow no declared target."""
        return isinstance(self.proposal, Biased) and self.proposal.biased

    @property
    def max_steps(self) -> int:
        """The largest number of steps that a run takes."""
        return self.kernel.steps

    def with_proposal(self, proposal: Proposal) -> DiscreteDiffusion:
        """The same law, sampled another way."""
        other = copy.copy(self)
        other.proposal = proposal
        return other

    def constrain(self, constraints: Sequence[TokenConstraint]) -> DiscreteDiffusion:
        """The same law, sampled with an eye on constraints; a proposal that was chosen stays."""
        from feynkac.models.discrete.acceptance import AutomatonGuided
        from feynkac.models.discrete.automata import compile_constraints

        if not constraints:
            return self
        if isinstance(self.alphabet, int):
            raise ModelError("a constraint on texts needs the bytes of the tokens; give the model a Vocabulary")
        other = copy.copy(self)
        other.constraints = tuple(constraints)
        if isinstance(self.proposal, Base):
            other.proposal = AutomatonGuided(compile_constraints(self.alphabet, other.constraints, self.length))
        return other

    def join(self, others: Sequence[DiscreteDiffusion]) -> DiscreteDiffusion:
        """One model of several problems in one batch, which may differ in what is given."""
        for other in others:
            if not (isinstance(other, DiscreteDiffusion) and other._identify() == self._identify()):
                raise ArgumentError(
                    "problems run in one batch only if they share denoiser, alphabet, kernel, proposal, and the "
                    "constraints that it obeys; run them apart"
                )
        joint = copy.copy(self)
        joint.given = np.concatenate([self.given, *(other.given for other in others)])
        return joint

    def _identify(self) -> tuple[int, ...]:
        """The parts that two models must share to run in one batch."""
        plain = isinstance(self.proposal, Base)
        parts = (self.denoiser, self.alphabet, self.kernel, Base if plain else self.proposal)
        return (self.length, *map(id, parts))

    def init(self, n: int, rng: Rng) -> Canvas:
        """`n` canvases of noise, the same number for each problem."""
        if n % len(self.given):
            raise ArgumentError(f"{n} particles for {len(self.given)} problems; give each the same number")
        group = np.repeat(np.arange(len(self.given)), n // len(self.given))
        given = self.given[group]
        noise = self.kernel.blank(n, self.length, self.k, Draws(rng, n, np.arange(n)))
        tokens = np.where(given >= 0, given, noise)
        return Canvas(
            kernel=self.kernel,
            tokens_now=tokens,
            outputs=Outputs.empty(self.denoiser, n, self.length, find_width(self.denoiser, self.k)),
            time=0,
            dead=np.zeros(n, dtype=np.bool_),
            free=given < 0,
            group=group,
            alphabet=self.alphabet,
            since=np.zeros(n),
            memory=Memory(n),
            past=Past.begin(tokens),
            origin=np.arange(n),
            forwarded=[0] * len(self.given),
            constraints=self.constraints,
        )

    def step(self, t: int, state: Canvas, rng: Rng) -> tuple[Canvas, LogW]:
        """One reverse step of the unfinished rows, and (N,) log p - log q in nats.

        The normalisers of a composition of experts are in the increment, too.
        """
        return self._step(t, state, rng, None)

    def replay(self, t: int, state: Canvas, rng: Rng, reference: CanvasPath) -> tuple[Canvas, LogW]:
        """A step in which row 0 draws what `reference`, a `trace`, drew; the other rows draw as they do in `step`."""
        if t == 0:
            if len(reference[0]) != self.length:
                raise ArgumentError(
                    f"the reference path begins with {len(reference[0])} tokens on a canvas of {self.length}; "
                    "take one that a trace of the same model has returned"
                )
            places, noise = np.array(reference[0]).T
            tokens = state.tokens_now.copy()
            tokens[0, places] = noise
            state = replace(state, tokens_now=tokens, past=Past.begin(tokens))
        return self._step(t, state, rng, reference[t + 1] if t + 1 < len(reference) else ())

    def trace(self, state: Canvas, row: int) -> CanvasPath:
        """The path of `row`: all that was drawn on the way, from the noise on."""
        return state.past.trace(int(state.origin[row]))

    def _step(self, t: int, state: Canvas, rng: Rng, given: Sequence[tuple[int, int]] | None) -> tuple[Canvas, LogW]:
        """A step, in which row 0 draws the (position, token) pairs `given`, if any are."""
        n = len(state)
        rows = np.flatnonzero(~self.done(state) & ~state.dead)
        draws = Draws(rng, n, rows)
        tokens = state.tokens_now.copy()
        inc = np.zeros(n)
        hidden = state.find_hidden(rows)
        moved = self.kernel.choose(t, hidden, state.find_sureness(rows), state.free[rows], draws)
        if given is not None and 0 in rows:
            moved[0] = False
            moved[0, [place for place, _ in given]] = True
            told = [token for _, token in given if not (has(self.denoiser, Ranks) and token == self.k)]
            draws = ReplayedDraws(rng, n, rows, told)
        if has(self.denoiser, Ranks):
            tokens[rows], ratio = find_ranked_draw(self.proposal)(t, state, rows, moved, draws)
        else:
            law, inc[rows] = self._find_law(t, tokens[rows], state.answers(rows), moved)
            tokens[rows], ratio = self.proposal.draw(t, state, rows, moved, law, draws)
        inc[rows] += ratio
        everywhere = np.zeros(tokens.shape, dtype=np.bool_)
        everywhere[rows] = moved
        return state.advance(tokens, everywhere, inc, rng), inc

    def _find_law(self, t: int, tokens: Tokens, answers: NDArray[np.float64], moved: Mask) -> tuple[LogProbs, LogW]:
        """(R, L, C) the law of the new values, and (R,) nats that a composition adds to the weights."""
        if not isinstance(self.denoiser, Composition):
            return self.kernel.law(t, tokens, answers[:, 0]), np.zeros(len(tokens))
        law, log_c = self.denoiser.law(self.kernel, t, tokens, answers)
        log_start = self.denoiser.log_start(self.kernel, self.length, self.k) if t == 0 else 0.0
        return law, sum_normalisers(log_c, moved) + log_start

    def prepare_saving(self) -> DiscreteDiffusion:
        """See `feynkac.base.capabilities.Saves`."""
        return self

    def identify(self) -> dict[str, Any]:
        """What tells this model from others."""
        from feynkac.models.discrete.saving import identify

        return identify(self)

    def save(self, state: Canvas) -> Any:
        """See `feynkac.base.capabilities.Saves`."""
        from feynkac.models.discrete.saving import save_canvas

        return save_canvas(state)

    def load(self, saved: Any) -> Canvas:
        """What `save` wrote."""
        from feynkac.models.discrete.saving import load_canvas

        return load_canvas(self, saved)

    def write_path(self, path: CanvasPath) -> CanvasPath:
        """See `feynkac.base.capabilities.SavesPaths`: tuples of numbers as they are."""
        return path

    read_path = write_path

    def done(self, state: Canvas) -> Mask:
        """(N,) which canvases are finished."""
        return state.done()
