"""A prompted language model as a Feynman-Kac model: one step draws one token for every particle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import Children, has
from feynkac.base.contract import LogW, Mask, Rng, Rows
from feynkac.base.errors import ArgumentError
from feynkac.base.masks import TokenConstraint, TokenMask, pack
from feynkac.models.language import texts
from feynkac.models.language.draws.rejection import Checks, Rounds
from feynkac.models.language.endings import Endings
from feynkac.models.language.exact.enumeration import Enumerated, Enumeration
from feynkac.models.language.forwarding import forward
from feynkac.models.language.laws.law import shape
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.proposals.children import check_undrawn, list_children
from feynkac.models.language.proposals.columns import FAR, Columns
from feynkac.models.language.proposals.drawing import PromptProblem, Share, arrange, draw_shares, guide_shares
from feynkac.models.language.proposals.plain import CANNOT_GO_BACK, Drafted
from feynkac.models.language.protocols import Drops, Frontier, find_hidden
from feynkac.models.language.readers.readers import (
    Reader,
    Readers,
    check_readers,
    find_readers,
    make_reader,
    walk_along,
)
from feynkac.models.language.retracing import retrace
from feynkac.models.language.saving import check_saving, identify_prompt, load_texts, save_texts
from feynkac.models.language.texts import Texts

if TYPE_CHECKING:
    from feynkac.base.capabilities import Guides
    from feynkac.models.language.language_model import LanguageModel


@dataclass(frozen=True, repr=False)
class Prompted:
    """The continuations of one or several prompts by one language model (see `CausalLM.prompt`).

    The law p of a text is the product of its token probabilities under the prompt's `Law` (temperature, top-k, ...), up
    to and including what ends it: an end-of-sequence token, a stop string, or the length limit. With
    `at_limit="truncate"` a text that reaches `max_tokens` is cut there; with `"end"` the end of sequence is forced
    there and its probability weighted, which is p restricted to the texts that end within the limit.

    Constraints mask the proposal, token by token; the mass that a mask removes goes into the weight, so that masking
    changes the variance and never the target (Lew et al. 2023; Loula et al. 2025). The proposal of each problem is the
    law that its tokens are drawn from under the masks, by default p itself; weights make up for any other.
    """

    lm: LanguageModel
    problems: tuple[PromptProblem, ...]

    name = "language model"

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompt of each problem."""
        return tuple(problem.prompt for problem in self.problems)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.prompts))

    def constrain(self, constraints: Sequence[TokenConstraint]) -> Prompted:
        """The same model with a proposal that obeys `constraints`, which must then also weigh as potentials."""
        return self._change(replace(each, constraints=(*each.constraints, *constraints)) for each in self.problems)

    def heed(self, guides: Sequence[Guides]) -> Prompted:
        """The same model with a proposal that follows `guides`, which must then also weigh as potentials."""
        check_readers(guides, self.lm.vocabulary, self.prompts)
        return self._change(replace(each, guides=(*each.guides, *guides)) for each in self.problems)

    def join(self, others: Sequence[Any]) -> Prompted:
        """One model of several problems, in one batch: its own, then those of `others`."""
        if any(not isinstance(other, Prompted) or other.lm.batch is not self.lm.batch for other in others):
            raise ArgumentError(
                "problems run in one batch only if all are prompts of one CausalLM and its edits; run them apart"
            )
        return self._change(problem for each in (self, *others) for problem in each.problems)

    def make_scorer(self) -> Reader:
        """This prompt as a reader of other prompts' texts (see `feynkac.models.language.readers.readers`)."""
        return make_reader(self.lm, self.problems)

    def _change(self, problems: Iterable[PromptProblem]) -> Prompted:
        return replace(self, problems=tuple(problems))

    @property
    def max_steps(self) -> int:
        """The longest limit of the prompts, in tokens."""
        return max(prompt.max_tokens for prompt in self.prompts)

    def init(self, n: int, rng: Rng) -> Texts:
        """`n` empty texts, the same number for each prompt."""
        return self.open(n)

    def open(self, n: int) -> Texts:
        """`n` empty texts, the same number for each prompt, with new contexts."""
        if n % len(self.prompts):
            raise ArgumentError(f"{n} particles for {len(self.prompts)} prompts; give each the same number")
        contexts = self.lm.open_prompts(self.prompts, self.max_steps)
        group = np.repeat(np.arange(len(self.prompts)), n // len(self.prompts))
        constraints = tuple(problem.constraints for problem in self.problems)
        return texts.start_texts(
            self.lm.vocabulary, contexts, self.prompts, constraints, group, self.columns.start[group]
        )

    def step(self, t: int, state: Texts, rng: Rng) -> tuple[Texts, LogW]:
        """Draw the next token of every running text; the increment is the log of the mass its mask left, in nats."""
        return self._step(state, rng, None)

    def replay(self, t: int, state: Texts, rng: Rng, reference: NDArray[np.int64]) -> tuple[Texts, LogW]:
        """Like `step`, but row 0 takes token `t` of `reference` (conditional SMC)."""
        pinned = int(reference[t]) if t < len(reference) else None
        return self._step(state, rng, pinned)

    def retrace(self, t: int, steps: int, state: Texts, of: Texts) -> list[tuple[Texts, LogW]]:
        """See `feynkac.base.capabilities.Retraces`."""
        return retrace(self, steps, state, of)

    def trace(self, state: Texts, row: int) -> NDArray[np.int64]:
        """The tokens of `row`, its end-of-sequence token included: what makes `replay` retrace it."""
        return state.ids[row, : state.length[row] + (state.ended[row] == texts.BY_EOS)].copy()

    def done(self, state: Texts) -> Mask:
        """(N,) which texts have ended."""
        return ~state.running

    def check_going_back(self) -> None:
        """Raises ArgumentError for a prompt with contexts that are walked along with its own."""
        if self.readers or any(isinstance(problem.proposal, Drafted) for problem in self.problems):
            raise ArgumentError(CANNOT_GO_BACK)

    def prepare_saving(self) -> Prompted:
        """See `feynkac.base.capabilities.Saves`."""
        check_saving(self)
        return self

    def identify(self) -> dict[str, Any]:
        """What tells this model from others."""
        told = [identify_prompt(problem.prompt, problem.proposal) for problem in self.problems]
        return {**self.lm.identify(), **(told[0] if len(told) == 1 else {"prompts": told})}

    def save(self, state: Texts) -> Any:
        """See `feynkac.base.capabilities.Saves`."""
        return save_texts(self, state)

    def load(self, saved: Any) -> Texts:
        """What `save` wrote."""
        return load_texts(self, saved)

    def write_path(self, path: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `feynkac.base.capabilities.SavesPaths`: the tokens as they are."""
        return path

    read_path = write_path

    def check_branches(self) -> None:
        """Raises ArgumentError for a prompt whose tokens must be drawn before they are weighed."""
        check_undrawn([problem.proposal for problem in self.problems], bool(self.columns.lazy))

    def branch(self, t: int, state: Texts, rows: Rows) -> Children:
        """All next tokens of the running `rows` (see `feynkac.base.capabilities.Branches`)."""
        frontier = self._reach(state, rows, np.zeros(len(rows)), None)
        return list_children(frontier, guide_shares(self.problems, frontier))

    def descend(
        self, t: int, state: Texts, children: Children, parents: Rows, at: Rows, chosen: NDArray[np.int64]
    ) -> Texts:
        """The population of the texts `parents`, each with its token of `chosen` behind it; -1 adds none."""
        state = state.fork(parents)
        grown = np.flatnonzero(chosen >= 0)
        if len(grown):
            state.context[grown] = at[grown]
            self.endings.append(state, grown, chosen[grown], children.weigh(at[grown], chosen[grown])[1])
        return state

    def _step(self, state: Texts, rng: Rng, pinned: int | None) -> tuple[Texts, LogW]:
        state = state.copy()
        increment, uniforms = np.zeros(len(state)), rng.uniform(len(state))
        rows = np.flatnonzero(state.running)
        if len(rows):
            frontier = self._reach(state, rows, uniforms[rows], pinned if rows[0] == 0 else None)
            if self.columns.lazy:
                draws = self.columns.count_draws(state.group[rows])
                checks = Checks(
                    self.columns, state.automata[rows], state.group[rows], draws, Rounds(rng, uniforms), rows
                )
                frontier = replace(frontier, checks=checks)
            tokens, log_prob, increment[rows] = draw_shares(self._shares, frontier)
            state.context[rows] = frontier.context
            if has(state.contexts, Drops):
                state.dropped[rows] = state.contexts.dropped[frontier.context]
            self.endings.append(state, rows, tokens, log_prob)
        return state, increment

    def _reach(self, state: Texts, rows: Rows, uniforms: NDArray[Any], pinned: int | None) -> Frontier:
        """The laws and masks of the distinct histories of `rows`, which are forwarded."""
        logits, context, parents, tokens = forward(state, rows)
        heads = rows[np.unique(context, return_index=True)[1]]
        laws = [self.prompts[g].law for g in state.group[heads]]
        logits = shape(logits, laws, lambda u: state.find_history(heads[u]))
        scale = self._inverse_temperature[state.group[heads]]
        mask = self.mask(state.automata[heads], state.length[heads], state.group[heads], lazily=True)
        groups, hidden = np.arange(len(self.problems)), find_hidden(state.contexts)
        state.companions[texts.HIDDEN] = hidden
        frontier = Frontier(
            logits, mask, scale, context, uniforms, pinned, state, rows, parents, tokens, groups, hidden=hidden
        )
        walk_along(self.readers, frontier)
        return frontier

    def mask(
        self, automata: NDArray[np.int64], length: NDArray[np.int64], group: NDArray[np.int64], lazily: bool = False
    ) -> TokenMask:
        """(U, ceil(V / 32)) the tokens that may follow histories in states `automata` (U, C), of `length` (U,) tokens.

        `group` (U,) are their prompts. `lazily`: of constraints that check tokens, the candidates only.
        """
        # No text that the target has is lost: what cannot be completed within the limit has no weight.
        left = np.minimum(self.endings.limits[group] - length, FAR - 1)
        mask = self.columns.mask(automata, left, group, lazily)
        mask[left == 0] &= self._eos_mask
        return mask

    def enumerate(self, most: int, masked: bool, watch: Callable[[int], Any]) -> Enumerated:
        """All texts that the constraints allow (see `feynkac.models.language.exact.enumeration.Enumeration.run`)."""
        return Enumeration(self).run(most, masked, watch)

    @cached_property
    def columns(self) -> Columns:
        """The automata of the constraints of all problems."""
        return Columns(tuple(problem.constraints for problem in self.problems), self.lm.vocabulary)

    @cached_property
    def _shares(self) -> list[Share]:
        return arrange(self)

    @cached_property
    def readers(self) -> Readers:
        """Those that the potentials consult."""
        return find_readers(self.problems)

    @cached_property
    def endings(self) -> Endings:
        """Where the texts of all problems end."""
        return Endings(self.prompts, self.lm.vocabulary, self.columns)

    @cached_property
    def _inverse_temperature(self) -> NDArray[np.float32]:
        return np.array([1.0 / prompt.law.temperature for prompt in self.prompts], np.float32)

    @cached_property
    def _eos_mask(self) -> TokenMask:
        return pack(self.lm.vocabulary.ends)
