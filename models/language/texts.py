"""The particles of a language model: texts that grow token by token."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.capabilities import has
from feynkac.base.contract import Mask, Rows
from feynkac.base.masks import States, TokenConstraint
from feynkac.base.memory import Memory
from feynkac.base.problems import Problem, list_problems
from feynkac.base.vocabulary import Vocabulary
from feynkac.models.language.kept import Kept
from feynkac.models.language.prompts.prompt import Prompt
from feynkac.models.language.proposals.columns import Constraints, find_columns
from feynkac.models.language.proposals.listed import name_listing
from feynkac.models.language.proposals.spending import doubt_proposal
from feynkac.models.language.protocols import Contexts, Drops, count_spent, list_strains

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Texts:
    """N texts (the capabilities `Writes` and `Tokenised`). All arrays have one row a particle and fork by gathering.

    `feynkac.models.language.saving` writes them to a file and reads them again.
    """

    vocabulary: Vocabulary
    prompts: tuple[Prompt, ...]
    contexts: Contexts
    """The distinct histories alive, with their keys and values, shared by all particles."""
    constraints: Constraints
    """Those of each problem that mask its proposal."""
    group: NDArray[np.int64]
    """(N,) which prompt each text continues."""
    context: NDArray[np.int64]
    """(N,) the history each text extends, as a number among those last forwarded."""
    pending: NDArray[np.int64]
    """(N,) the token drawn last, not yet forwarded; -1 before the first."""
    ids: NDArray[np.int64]
    """(N, T) generated tokens, of which the first `length` count."""
    length: NDArray[np.int64]
    """(N,) generated tokens, the end-of-sequence token not among them."""
    log_prob: NDArray[np.float64]
    """(N,) log-probability of each text under the model, in nats, its ending included."""
    token_log_prob: NDArray[np.float64]
    """(N, T) that of each token, as `ids` has them, an end of sequence behind the last."""
    dropped: NDArray[np.float64]
    """(N,) nats by which `log_prob` may be too high, where the contexts say that they are approximate (`Drops`)."""
    ended: NDArray[np.int64]
    """(N,) how each text ended: RUNNING, BY_EOS, BY_STOP, AT_LIMIT or DEAD."""
    automata: NDArray[np.int64]
    """(N, C) automaton states of each text's constraints (see `Columns`)."""
    memory: Memory
    forwarded: list[int]
    """Tokens forwarded so far for each prompt; one list for the whole run."""
    companions: dict[Any, Any]
    """What a proposal keeps for the run, such as contexts of its own, by a key of its own; one for the whole run."""

    def __len__(self) -> int:
        return len(self.length)

    def fork(self, rows: Rows) -> Texts:
        """The population whose row `i` continues from `rows[i]`; keys and values are not touched."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        gathered = {name: value[rows] for name, value in arrays.items() if isinstance(value, np.ndarray)}
        return replace(self, **gathered, memory=self.memory.fork(rows))

    def copy(self) -> Texts:
        """The same texts, to be written to: what a step changes is copied, and this population stays."""
        return replace(self, **{name: getattr(self, name).copy() for name in _CHANGED})

    def count_forwarded(self, groups: Iterable[int], taken: Sequence[int] | NDArray[np.int64]) -> None:
        """Count what the contexts of some groups have taken: so many tokens, unless they say otherwise."""
        for g, n in zip(groups, count_spent(self.contexts, taken), strict=True):
            self.forwarded[g] += int(n)

    def retire(self, rows: Rows) -> None:
        """Mark rows as dead: those that run leave the batch."""
        self.ended[rows[self.running[rows]]] = DEAD

    def keep(self) -> Texts:
        """The same population, whose contexts stay alive as long as it is held."""
        kept = self.fork(np.arange(len(self)))
        if Kept not in self.companions:
            self.companions[Kept] = Kept(self.contexts)
        self.companions[Kept].add(kept.context, kept.running)
        return kept

    def concat(self, others: Sequence[Texts]) -> Texts:
        """The rows of this population, then those of `others`, which are of the same run."""
        parts = [self, *others]
        width = max(part.ids.shape[1] for part in parts)
        parts = [part.widen(width) for part in parts]
        names = [f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(self, **joined, memory=self.memory.concat([part.memory for part in others]))

    def widen(self, width: int) -> Texts:
        """The same population with room for `width` tokens, the ends of sequence among them."""
        more = (0, 0), (0, width - self.ids.shape[1])
        return replace(self, ids=np.pad(self.ids, more), token_log_prob=np.pad(self.token_log_prob, more))

    @property
    def running(self) -> Mask:
        return self.ended == RUNNING

    def tokens(self, rows: Rows) -> Sequence[NDArray[np.int64]]:
        """The generated token ids of `rows`."""
        return [self.ids[i, : self.length[i]] for i in rows]

    def find_history(self, row: int) -> NDArray[np.int64]:
        """The tokens of `row`, the prompt's first: what its law reads."""
        return self.prompts[self.group[row]].find_history(self.ids[row, : self.length[row]])

    def limits(self, rows: Rows) -> NDArray[np.int64]:
        """(R,) the tokens that each text may have, no end of sequence among them."""
        return np.array([prompt.max_tokens for prompt in self.prompts])[self.group[rows]]

    def must_end(self, rows: Rows) -> Mask:
        """(R,) whether each text must end itself where it reaches its limit."""
        return np.array([prompt.at_limit == "end" for prompt in self.prompts])[self.group[rows]]

    def texts(self, rows: Rows) -> list[str]:
        """The decoded texts of `rows`; bytes that do not (yet) form a character are left out at the end."""
        return [self.vocabulary.text(tokens) for tokens in self.tokens(rows)]

    def states(self, constraint: TokenConstraint, rows: Rows) -> States | None:
        """(R,) automaton states of a constraint that masks the proposal of all `rows`; None of any other."""
        columns = find_columns(self.constraints, constraint)[self.group[rows]]
        return None if (columns < 0).any() else self.automata[rows, columns]

    def tell_log_prob(self, rows: Rows) -> NDArray[np.float64]:
        """(R,) nats of `rows` under the laws of their prompts, the ends of those that have ended among them."""
        return self.log_prob[rows]

    def tell_tokens(self, rows: Rows) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        """(R,) the tokens of `rows`, an end of sequence among them, and the nats of each under the prompt's law."""
        size = self.length[rows] + (self.ended[rows] == BY_EOS)
        return [(self.ids[i, :n], self.token_log_prob[i, :n]) for i, n in zip(rows, size, strict=True)]

    def tell_last(self, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(R,) the last token of `rows`, and its nats under the prompt's law; -1, of no mass, where none was left."""
        at = self.length[rows] - (self.ended[rows] != BY_EOS)
        dead = self.ended[rows] == DEAD
        return np.where(dead, -1, self.ids[rows, at]), np.where(dead, -np.inf, self.token_log_prob[rows, at])

    def spell(self, pieces: NDArray[np.int64]) -> list[bytes]:
        """(K,) the bytes of tokens; none of an end of sequence, nor of -1."""
        tokens, ends = self.vocabulary.tokens, self.vocabulary.eos
        return [b"" if token < 0 or token in ends else tokens[token] for token in pieces.tolist()]

    def tell_dropped(self, rows: Rows) -> NDArray[np.float64] | None:
        """(R,) nats by which the log-probabilities of `rows` may be too high; None where they are exact."""
        return self.dropped[rows] if has(self.contexts, Drops) else None

    def tell_hidden(self, rows: Rows) -> Tensor | None:
        """(R, width) float32: what the output layer read where the last token of `rows` was drawn."""
        hidden = self.companions.get(HIDDEN)
        return None if hidden is None else hidden[self.context[rows]]

    def tell_problems(self, rows: Rows) -> list[Problem]:
        """(R,) what each text continues."""
        return list_problems(self.group[rows], self.memory.problems, self._describe)

    def _describe(self, g: int) -> Problem:
        prompt = self.prompts[g]
        written = self.vocabulary.text(prompt.tokens) if prompt.text is None else prompt.text
        return Problem(g, written, prompt.chat)

    def tell_ends(self, rows: Rows) -> list[str | None]:
        """What ended `rows` other than their own end: the limit, or that no token was left."""
        said = {AT_LIMIT: "cut at max_tokens={0}", DEAD: "where no token was left that every constraint allows{1}"}
        ends = [(said.get(int(self.ended[row])), self.prompts[self.group[row]]) for row in rows]
        lawful = " and the prompt's law (top_k and the like) leaves"
        return [
            None if end is None else end.format(prompt.max_tokens, lawful if prompt.law.leaves_out else "")
            for end, prompt in ends
        ]

    def log_accepted(self, constraint: TokenConstraint, rows: Rows) -> NDArray[np.float64] | None:
        """(R,) nats that a constraint which lists its texts foresees; None of any other."""
        columns, group = find_columns(self.constraints, constraint), self.group[rows]
        listings = [self.companions.get(name_listing(g, c)) for g, c in enumerate(columns.tolist())]
        if not any(listings[g] is not None for g in group):
            return None
        bytes_of = self.vocabulary.bytes
        guesses = [
            0.0 if (listing := listings[g]) is None else listing.foresee(some.tolist(), bytes_of(some))
            for g, some in zip(group, self.tokens(rows), strict=True)
        ]
        return np.where(self.automata[rows, columns[group]] >= 0, guesses, -np.inf)

    def bound_evidence(self, group: int, rows: Rows) -> float:
        """Nats of the finished texts `rows`, each counted once, or of the usual spellings of listed texts if more."""
        seen: dict[bytes, float] = {}
        for i in rows:
            ids = self.ids[i, : self.length[i] + (self.ended[i] == BY_EOS)]
            seen[ids.tobytes() + bytes([self.ended[i]])] = float(self.log_prob[i])
        written = float(np.logaddexp.reduce(list(seen.values()), initial=-np.inf))
        listings = [self.companions.get(name_listing(group, c)) for c in range(len(self.constraints[group]))]
        return max([written, *(listing.log_total for listing in listings if listing is not None)])

    def list_doubts(self, group: int) -> list[str]:
        """See `Doubts`: a proposal that spends more than half of the particles on itself, and memory that ran out."""
        return [*doubt_proposal(self.companions, group), *list_strains(self.contexts)]

    def samples(self, rows: Rows) -> list[str]:
        """What a result shows for `rows`."""
        return self.texts(rows)


_CHANGED = ("context", "pending", "ids", "length", "log_prob", "token_log_prob", "dropped", "ended", "automata")
"""The arrays that a step writes."""
RUNNING, BY_EOS, BY_STOP, AT_LIMIT, DEAD = range(5)
EXTEND = 64
"""Tokens by which the table of generated ids grows."""
NOTHING = -1
"""No token is pending: the text is empty."""
HIDDEN = "what the output layer read"
"""The key in `companions` of the hidden states of the last frontier; contexts may have read other texts since."""


def start_texts(
    vocabulary: Vocabulary,
    contexts: Contexts,
    prompts: tuple[Prompt, ...],
    constraints: Constraints,
    group: NDArray[np.int64],
    start: NDArray[np.int64],
) -> Texts:
    """Empty texts, one for each entry of `group`; `start` (N, C) are the automata's start states."""
    n = len(group)
    return Texts(
        vocabulary=vocabulary,
        prompts=prompts,
        contexts=contexts,
        constraints=constraints,
        group=group,
        context=group.copy(),
        pending=np.full(n, NOTHING),
        ids=np.zeros((n, EXTEND), np.int64),
        length=np.zeros(n, np.int64),
        log_prob=np.zeros(n),
        token_log_prob=np.zeros((n, EXTEND)),
        dropped=np.zeros(n),
        ended=np.full(n, RUNNING),
        automata=start,
        memory=Memory(n),
        forwarded=[0] * len(prompts),
        companions={},
    )
