"""Language models as experts: a text weighs by what other prompts, or other models, think of it.

    fk.steer(lm.prompt(a), fk.expert(lm.prompt(b)))                                 # p(text | a) p(text | b)
    fk.steer(lm.prompt(a), fk.expert(lm.prompt(good)) * fk.expert(lm.prompt(bad), power=-1))

Products of experts (Hinton 2002); with a negative power DExperts (Liu et al. 2021) and negative prompts, as laws of
whole texts: the product of next-token laws, renormalised at each token as those methods have it, is here the proposal,
and the normalisers go into the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Scorer, Scores, require
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.numbers import as_real
from feynkac.potentials.base import Factor

if TYPE_CHECKING:
    from torch import Tensor


class Expert(Factor):
    """`power` times the log of a mixture of the probabilities that prompts give to a text, in nats.

    Levels are those of the prefixes, and tokens are drawn from the product of the next-token laws. A text without mass
    in the mixture has none in the target, whatever the sign of the power.
    """

    def __init__(self, name: str, scorers: Sequence[Scorer], log_shares: NDArray[np.float64], power: float) -> None:
        self.name = name if power == 1 else f"{name} ** {power:g}"
        self.scorers = tuple(scorers)
        self.power = power
        self._base, self._log_shares = name, log_shares
        self.define(log_shares.tolist())

    def level(self, t: int, state: State, rows: Rows) -> LogW:
        """(R,) nats of the texts so far."""
        return self.final(state, rows)

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) nats of the texts; the end counts where a text ended by itself, and not where a limit or stop cut it."""
        values = np.logaddexp.reduce(self._score(state, rows), axis=1)
        dead = values == -np.inf
        return np.where(dead, -np.inf, self.power * np.where(dead, 0.0, values))

    def guide(self, frontier: Any) -> Tensor:
        """(U, V) nats: `power` times the log of the mixture's law of the next token."""
        import torch

        laws = [scorer.score_next(frontier) for scorer in self.scorers]
        law = laws[0]
        if len(laws) > 1:
            known = self._score(frontier.state, frontier.heads)
            total = np.logaddexp.reduce(known, axis=1, keepdims=True)
            shares = torch.as_tensor(known - np.where(np.isfinite(total), total, 0.0), device=law.device).float()
            law = torch.logsumexp(
                torch.stack([share[:, None] + each for share, each in zip(shares.T, laws, strict=True)]), 0
            )
        return (self.power * law).masked_fill(law == -torch.inf, -torch.inf)

    def _score(self, state: State, rows: Rows) -> NDArray[np.float64]:
        """(R, K) nats of each expert's share in the mixture."""
        return np.stack([scorer.score_texts(state, rows) for scorer in self.scorers], axis=1) + self._log_shares

    def _power(self, exponent: float) -> Factor:
        return Expert(self._base, self.scorers, self._log_shares, self.power * exponent)


@suggest_names()
def expert(prompt: Any, power: float = 1.0) -> Expert:
    """A prompt, of the same model or of another with the same vocabulary, that weighs texts: p_expert(text)^power.

        fk.steer(lm.prompt(question), fk.expert(lm.prompt(hint + question)))
        fk.steer(large.prompt(a), fk.expert(tuned.prompt(a)) * fk.expert(plain.prompt(a), power=-1))

    The target is p(text) prod_k p_k(text)^power_k. Of the expert's prompt its tokens and its law (`temperature`) count;
    what ends a text is said by the prompt that is steered. Where that ends by itself, the probability counts that the
    expert, too, ends there, by any of its own ends of sequence; where a limit or a stop string cuts it, no end counts.

    Every expert reads along with the particles, each distinct text once, and all that use one model in one pass; its
    tokens count as forwarded. Unless the prompt names a proposal, tokens are drawn from the product of all laws.

    A negative power favours what the expert finds unlikely. p(text) / p_bad(text) has no bound: alone it prefers texts
    for being rare, so set another expert, or a constraint, beside it. Texts that an expert cannot write at all are left
    out of the target under a negative power, too (a plain softmax has none, but for what is behind an end).

    Raises ArgumentError for what is no single prompt, and for a power that is no finite number; `steer` raises it for
    another vocabulary, and ModelError where the expert's window is too small for its prompt and the text.
    """
    if (finite := as_real(power)) is None:
        raise ArgumentError(f"expert: power is {quote(power)}; it must be a finite number")
    return Expert("expert", [_read_scorer(prompt, "expert")], np.zeros(1), finite)


@suggest_names()
def mixture(prompts: Iterable[Any], weights: Iterable[float] | None = None) -> Expert:
    """Prompts of which one, nobody knows which, wrote the text: sum_k w_k p_k(text), a Bayesian mixture.

        fk.steer(lm.prompt(a), fk.mixture([lm.prompt(b), lm.prompt(c)], [0.7, 0.3]))

    The sum is over probabilities of whole texts, so that the experts' shares change along the text, as in Bayes' rule:
    the next token follows those that foresaw the ones before. `weights` (K,) are positive, and are divided by their
    sum; by default they are equal. All else is as in `expert`; `mixture(...) ** a` is its power.

    Raises ArgumentError as `expert` does, and for weights that cannot be.
    """
    if (listed := as_list(prompts)) is None:
        raise ArgumentError(f"mixture: {quote(prompts)}: give a list of prompts, [lm.prompt(...), ...]")
    scorers = [_read_scorer(prompt, "mixture") for prompt in listed]
    if not scorers:
        raise ArgumentError("mixture: an empty list of prompts; give at least one")
    return Expert("mixture", scorers, np.log(_read_weights(weights, len(scorers))), 1.0)


def _read_weights(weights: Iterable[float] | None, n: int) -> NDArray[np.float64]:
    """(n,) shares that sum to 1."""
    try:
        shares = np.ones(n) if weights is None else np.array(as_list(weights), np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"mixture: weights is {quote(weights)}; give {n} positive numbers") from None
    if shares.shape != (n,) or not (np.isfinite(shares) & (shares > 0)).all():
        raise ArgumentError(f"mixture: weights is {quote(weights)}; give {n} positive numbers, one for each prompt")
    return shares / shares.sum()


def _read_scorer(prompt: Any, who: str) -> Scorer:
    many = isinstance(prompt, list | tuple)
    advice = "multiply experts, or give fk.mixture a list" if many else "give lm.prompt(...)"
    return require(prompt, Scores, f"{who}: {quote(prompt)} is no prompt; {advice}", ArgumentError).make_scorer()
