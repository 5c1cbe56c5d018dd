"""The particles of a discrete diffusion: canvases of tokens that a sampler fills in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Ranks, RelatesNeighbours, has, require
from feynkac.base.clock import charge
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ModelError
from feynkac.base.masks import States, TokenConstraint
from feynkac.base.memory import Memory
from feynkac.base.problems import Problem, list_problems
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.discrete.composition import Composition
from feynkac.models.discrete.denoiser import LogProbs, Tokens
from feynkac.models.discrete.draws import Draws
from feynkac.models.discrete.kernel import Kernel, find_certain
from feynkac.models.discrete.outputs import Outputs
from feynkac.models.discrete.path import Past
from feynkac.models.discrete.ranked import Ranking, draw_completion


@dataclass
class Canvas:
    """N canvases. Every array has one row a particle.

    The text of a canvas is what stands before its first end-of-sequence token. Until it is finished, texts and tokens
    are those of the denoised estimate: the likeliest clean token at every position that is still open.

    Capabilities: `Retires`, `Shows`, `CountsTokens`, `Remembers`, `Writes`, `Tokenised`, `CarriesAutomata`,
    `ForeseesAcceptance`, `Weighed`, `Completes`.

    `feynkac.models.discrete.saving` writes it to a file and reads it again.
    """

    kernel: Kernel
    tokens_now: Tokens
    """(N, L)"""
    outputs: Outputs
    time: int
    """Steps taken."""
    dead: Mask
    """(N,) rows that have left the batch."""
    free: Mask
    """(N, L) positions that are not given."""
    group: Rows
    """(N,) which of the problems in the batch each row belongs to."""
    alphabet: Vocabulary | int
    """The clean tokens, or only their number K."""
    since: LogW
    """(N,) nats of log-weight since the group was last resampled, as far as the model and tempering know it."""
    memory: Memory
    past: Past
    origin: Rows
    """(N,) the row of `past` that each row descends from."""
    forwarded: list[int]
    """Tokens evaluated so far for each problem; one list for the whole run."""
    constraints: tuple[TokenConstraint, ...] = ()
    """Those that the proposal looks out for; they are foreseen together."""
    rng: Rng | None = None
    """The numbers of the step that made this population, for potentials that draw completions."""

    def __len__(self) -> int:
        return len(self.tokens_now)

    @property
    def k(self) -> int:
        """The number of clean tokens, which is also the id of the mask."""
        return self.alphabet if isinstance(self.alphabet, int) else self.alphabet.size

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of the clean tokens. Raises ModelError for a model that has only a number of tokens."""
        if isinstance(self.alphabet, int):
            raise ModelError("this model has no vocabulary, so there are no texts; give it a Vocabulary")
        return self.alphabet

    def fork(self, rows: Rows) -> Canvas:
        """The population whose row `i` continues from `rows[i]`."""
        group = self.group[rows]
        moved = rows != np.arange(len(rows))
        return replace(
            self,
            tokens_now=self.tokens_now[rows],
            outputs=self.outputs.fork(rows),
            dead=self.dead[rows],
            free=self.free[rows],
            group=group,
            since=np.where(np.isin(group, group[moved]), 0.0, self.since[rows]),
            memory=self.memory.fork(rows),
            origin=self.origin[rows],
            rng=None,
        )

    def advance(self, tokens: Tokens, moved: Mask, inc: LogW, rng: Rng) -> Canvas:
        """The population after a step that drew the `tokens` (N, L) at the `moved` positions, with numbers of `rng`.

        `inc`: (N,) nats, what the model adds to the weights.
        """
        return replace(
            self,
            tokens_now=tokens,
            outputs=self.outputs.drop_stale((tokens != self.tokens_now).any(axis=1)),
            time=self.time + 1,
            since=self.since + inc,
            past=self.past.extend(self.origin, tokens, moved),
            origin=np.arange(len(self)),
            rng=rng,
        )

    def tell_problems(self, rows: Rows) -> list[Problem]:
        """(R,) which problem each canvas belongs to."""
        return list_problems(self.group[rows], self.memory.problems)

    def retire(self, rows: Rows) -> None:
        """Mark rows as dead: they cost no more evaluations."""
        self.dead[rows] = True

    def done(self) -> Mask:
        """(N,) which canvases are finished."""
        return self.kernel.done(self.time, self.tokens_now, self.k)

    @charge("model")
    def answers(self, rows: Rows) -> NDArray[np.float64]:
        """(R, E, L, K) nats, what each expert says of `rows` as they stand; evaluated where it is not known."""
        # Answers are remembered in the state itself: they are not part of what the particles are.
        self.outputs, asked = self.outputs.evaluate(rows, self.tokens_now, self.kernel.noise_level(self.time))
        _, experts, length, _ = self.outputs.table.shape
        for row in asked:
            self.forwarded[self.group[row]] += experts * length
        return self.outputs.table[self.outputs.slot[rows]]

    def log_probs(self, rows: Rows) -> LogProbs:
        """(R, L, K) nats, the denoiser's answer for `rows` as they stand. Raises ModelError for one that `Ranks`."""
        denoiser = self.outputs.denoiser
        if has(denoiser, Ranks):
            raise ModelError(
                f"{type(denoiser).__name__} keeps the {denoiser.n_ranked} likeliest of {self.k} tokens, and what was "
                "asked for needs the probabilities of all; ask for all of them, as by MaskedLM(..., top=None)"
            )
        answers = self.answers(rows)
        return denoiser.combine(answers) if isinstance(denoiser, Composition) else answers[:, 0]

    def ranking(self, rows: Rows) -> Ranking:
        """(R, L, ...) the likeliest tokens of `rows` as they stand, of a denoiser that `Ranks`."""
        return Ranking.unpack(self.answers(rows)[:, 0])

    @charge("model")
    def look_again(self, rows: Rows, places: Rows) -> LogProbs:
        """(R, K) nats, the whole law at one of the `places` (R,) of each of `rows` as they stand."""
        denoiser = require(self.outputs.denoiser, Ranks, "only a denoiser that ranks is looked at again", ModelError)
        for row in rows:
            self.forwarded[self.group[row]] += self.tokens_now.shape[1]
        return denoiser.log_probs_at(self.tokens_now[rows], self.kernel.noise_level(self.time), places)

    def find_hidden(self, rows: Rows) -> Mask:
        """(R, L) the positions of `rows` that are under a mask."""
        return self.tokens_now[rows] == self.k

    def find_sureness(self, rows: Rows) -> LogProbs:
        """(R, L) nats, the log-probability of the likeliest token at each position of `rows`."""
        if has(self.outputs.denoiser, Ranks):
            return self.ranking(rows).log_p[..., 0]
        return self.log_probs(rows).max(axis=-1)

    def clean(self, rows: Rows) -> LogProbs:
        """(R, L, K) nats, the factorised posterior of the clean tokens; a token under no mask is certain."""
        return self.kernel.clean(self.tokens_now[rows], self.log_probs(rows))

    def pairs(self, rows: Rows) -> NDArray[np.float64] | None:
        """(R, L - 1, K, K) nats, the law of each clean token given the one before it, where the denoiser tells it.

        None where it does not, and for steps that do not reveal tokens for good.
        """
        denoiser = self.outputs.denoiser
        if not (self.kernel.permanent and isinstance(denoiser, RelatesNeighbours)):
            return None
        return denoiser.transitions(self.tokens_now[rows], self.kernel.noise_level(self.time))

    def estimate_clean(self, rows: Rows) -> Tokens:
        """(R, L) the likeliest clean token at each position; the tokens themselves of finished rows."""
        tokens = self.tokens_now[rows].copy()
        open_ = np.flatnonzero(~self.done()[rows])
        if len(open_) and has(self.outputs.denoiser, Ranks):
            likeliest = self.ranking(rows[open_]).tokens[..., 0]
            tokens[open_] = np.where(self.find_hidden(rows[open_]), likeliest, tokens[open_])
        elif len(open_):
            tokens[open_] = self.clean(rows[open_]).argmax(axis=-1)
        return tokens

    def draw_clean(self, rows: Rows) -> Tokens:
        """(R, L) clean tokens drawn from the factorised posterior of unfinished `rows`. Raises ModelError.

        Of a denoiser that `Ranks` only the likeliest tokens are drawn: it is a guess of what will come.
        """
        if self.rng is None:
            raise ModelError(
                "no random numbers are left to draw completions with: a locally optimal proposal asks for levels of "
                "canvases that are not in the population; give it a potential that does not draw (samples=0)"
            )
        draws = Draws(self.rng, len(self), rows)
        tokens = self.tokens_now[rows].copy()
        if has(self.outputs.denoiser, Ranks):
            return draw_completion(self.ranking(rows), tokens, self.find_hidden(rows), draws)
        law = self.clean(rows)
        draws.fill(tokens, ~find_certain(law, tokens), law)
        return tokens

    def complete(self, rows: Rows, tokens: Tokens) -> Canvas:
        """A finished population, row `i` of which is row `rows[i]` filled in with `tokens[i]`."""
        return replace(self.fork(rows), tokens_now=tokens, time=self.kernel.steps)

    def tokens(self, rows: Rows) -> list[NDArray[np.int64]]:
        """The tokens of the (estimated) texts of `rows`, up to the first end-of-sequence token."""
        ends = [] if isinstance(self.alphabet, int) else list(self.alphabet.eos)
        canvases = self.estimate_clean(rows)
        ended = np.isin(canvases, ends)
        length = np.where(ended.any(axis=1), ended.argmax(axis=1), canvases.shape[1])
        return [canvas[:stop] for canvas, stop in zip(canvases, length, strict=True)]

    def texts(self, rows: Rows) -> list[str]:
        """The (estimated) texts of `rows`."""
        return [self.vocabulary.text(tokens) for tokens in self.tokens(rows)]

    def states(self, constraint: TokenConstraint, rows: Rows) -> States:
        """(R,) automaton states after the texts of finished rows; the start state, no promise, of the others."""
        from feynkac.models.discrete.acceptance import follow_texts

        return follow_texts(self, constraint, rows)

    def log_accepted(self, constraint: TokenConstraint, rows: Rows) -> LogW:
        """(R,) nats, at most 0: the probability under the factorised denoiser that the text meets `constraint`.

        The first of `constraints` answers for all of them, and the others with 0.
        """
        from feynkac.models.discrete.acceptance import log_accepted

        return log_accepted(self, constraint, rows)

    def samples(self, rows: Rows) -> list[Any]:
        """(R,) the samples that a result holds: texts, or tuples of token ids where there is no vocabulary."""
        if isinstance(self.alphabet, int):
            return [tuple(canvas.tolist()) for canvas in self.tokens_now[rows]]
        return self.texts(rows)
