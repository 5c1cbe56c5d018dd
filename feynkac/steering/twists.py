"""Twists made for a task: a cheap chain listens to the model for a while, and then stands in for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Heeds
from feynkac.base.contract import LogW, Rows, State
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.masks import TokenConstraint
from feynkac.base.numbers import read_particles
from feynkac.potentials.base import Factor
from feynkac.potentials.twists import MarkovLevel, MarkovTwist, TokenChain
from feynkac.potentials.twists.chains import fit_chain
from feynkac.steering.steer import steer


@suggest_names()
def markov_twist(
    task: Any,
    constraint: TokenConstraint,
    *,
    outline: TokenConstraint | None = None,
    chain: TokenChain | None = None,
    guide: bool = True,
    runs: int = 64,
    seed: int | None = None,
) -> MarkovLevel:
    """A guess of how likely each text is to meet `constraint` yet; steer with both, for it has no part in the target.

        sentence = fk.regex(r"[^\\n]*\\.")
        fk.steer(task, sentence, fk.markov_twist(task, sentence), particles=16)

    Its level is log psi(state of the automaton, last token, tokens left) nats, and prompts draw from p(v) psi(after v).
    psi is exact under a Markov chain of tokens in the place of the language model (Zhang et al. 2024 have a hidden
    Markov model there). It pays where much depends on what the automaton and the limit tell: a text that must end
    within `max_tokens`, a length, a closing bracket. Where all depends on the words that come next (a letter to be
    avoided), a chain of tokens knows too little to choose them: there `guide=False`.

    - `task`: a prompt, `lm.prompt(...)`. The twist serves all prompts of this `lm`, best those that are like it. Stop
      strings are not foreseen.
    - `outline`: a constraint with a finite automaton that the texts of `constraint` meet, too: a regex for a grammar,
      which has none, or for a schema, which has a rough one of its own. It only guides, and need not be exact.
    - `chain`: a chain that is known already. By default it is learnt from `runs` texts that meet `constraint`. They are
      forwarded once: make a twist once, and use it often.
    - `guide`: False leaves the drawing of tokens to the model, and only weighs what came out. For constraints under
      which the next words decide, and the chain knows no more than how long the text has become.

    `twist ** 0.5` trusts the chain less. Raises ArgumentError for anything else, ConstraintError for a constraint
    without a finite automaton, or with one of too many states.
    """
    if not isinstance(task, Heeds):
        raise ArgumentError(f"markov_twist({quote(task)}): give a prompt first, as in lm.prompt('...')")
    for name, each in (("constraint", constraint), ("outline", outline)):
        if each is not None and not isinstance(each, TokenConstraint):
            raise ArgumentError(f"markov_twist({name}={quote(each)}): give a constraint on tokens, such as regex(...)")
    if constraint is None:
        raise ArgumentError("markov_twist(constraint=None): give a constraint on tokens, such as regex(...)")
    if chain is not None and not isinstance(chain, TokenChain):
        raise ArgumentError(f"markov_twist(chain={quote(chain)}): give a TokenChain, or nothing")
    if not isinstance(guide, bool):
        raise ArgumentError(f"markov_twist(guide={quote(guide)}): give True or False")
    known = learn_chain(task, constraint, runs=runs, seed=seed) if chain is None else chain
    kind = MarkovTwist if guide else MarkovLevel
    return kind(known, constraint if outline is None else outline)


def learn_chain(task: Any, *potentials: Any, runs: int, seed: int | None) -> TokenChain:
    """The chain that is most like the model behind `runs` texts of its own, under constraints that mask."""
    listener = Listener()
    options: dict[str, Any] = {"algorithm": "importance", "on_death": "return", "progress": False}
    steer(task, *potentials, listener, particles=read_particles("runs", runs), seed=seed, **options)
    return fit_chain(listener.vocabulary, listener.laws, listener.counts)


class Listener(Factor):
    """A potential that is 1, and hears the laws of all next tokens."""

    name = "listener"

    def __init__(self) -> None:
        self.vocabulary: Any = None
        self.laws: dict[int, NDArray[np.float32]] = {}
        """(V,) the sum of the laws behind each token that was last."""
        self.counts: Counter[int] = Counter()

    def final(self, state: State, rows: Rows) -> LogW:
        """(R,) zeros."""
        return np.zeros(len(rows))

    def guide(self, frontier: Any) -> Any:
        """(U, V) zeros, a tensor."""
        import torch

        self.vocabulary = frontier.state.vocabulary
        if frontier.tokens is not None:
            scale = torch.as_tensor(frontier.scale, device=frontier.logits.device)[:, None]
            laws = torch.softmax(frontier.logits * scale, 1).cpu().numpy()
            for token, law in zip(frontier.tokens.tolist(), laws, strict=True):
                self.laws[token] = self.laws[token] + law if token in self.laws else law.copy()
                self.counts[token] += 1
        return torch.zeros_like(frontier.logits)
