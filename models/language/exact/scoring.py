"""What a model thinks of given texts: the score of each, exactly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_list
from feynkac.base.masks import States, TokenMask, pack
from feynkac.base.numbers import read_flag
from feynkac.base.per_vocabulary import PerVocabulary
from feynkac.base.vocabulary import Vocabulary
from feynkac.base.words import is_word
from feynkac.models.language.exact.enumeration import Enumeration
from feynkac.models.language.proposals.drawing import PromptProblem
from feynkac.models.language.proposals.listed import Ids, can_end, score_firsts, score_lists, shape_starts

if TYPE_CHECKING:
    from feynkac.models.language.language_model import LanguageModel
    from feynkac.models.language.prompted import Prompted
    from feynkac.models.language.prompts.prompt import Prompt

MOST = 5_000
"""Prefixes of spellings that go through the model, at most."""
_tokens_of: PerVocabulary[dict[bytes, list[int]]] = PerVocabulary()


def score_texts(
    lm: LanguageModel, prompt: Any, texts: Iterable[str], end: bool, spellings: Literal["usual", "all"]
) -> NDArray[np.float64]:
    """(K,) log-probabilities of texts (see `LanguageModel.score`)."""
    if (listed := as_list(texts)) is None:
        raise ArgumentError(f"score: {quote(texts)}: give a list of texts")
    if wrong := [text for text in listed if not isinstance(text, str)]:
        raise ArgumentError(f"score: {quote(wrong[0])} is no text; give a list of texts")
    if not is_word(spellings, ("usual", "all")):
        raise ArgumentError(f"spellings is {quote(spellings)}; it must be 'usual' or 'all'")
    end = read_flag("score: end", end)
    if spellings == "all" and not end:
        raise ArgumentError("score: end=False counts the usual spelling only; leave spellings='all' out")
    spelt = [tuple(lm.spell(text)) for text in listed]
    if spellings == "usual":
        return _score_usual(_read_model(lm, prompt, max([1, *map(len, spelt)])), spelt, end)
    model = _read_model(lm, prompt, max([1, *(len(text.encode()) for text in listed)]))
    known = {text: _score_all(model, text) for text in dict.fromkeys(listed)}
    return np.array([known[text] for text in listed])


def score_answers(lm: LanguageModel, questions: Sequence[Any], answers: Sequence[str]) -> NDArray[np.float64]:
    """(Q, A) log-probabilities of answers as beginnings (see `LanguageModel.score_answers`)."""
    listed, asked = as_list(answers), as_list(questions)
    if not listed or not all(isinstance(answer, str) for answer in listed) or asked is None:
        raise ArgumentError("score_answers: give a list of questions, and a list of answers, which are texts")
    spelt = [tuple(lm.spell(answer)) for answer in listed]
    if not all(spelt):
        raise ArgumentError(f"score_answers: an answer of {quote(listed, 80)} is empty; leave it out")
    longest = max(map(len, spelt))
    prompts = [_read_question(lm, question, longest) for question in asked]
    if not prompts:
        return np.empty((0, len(spelt)))
    contexts = lm.open([prompt.tokens for prompt in prompts], longest)
    laws = contexts.start()
    if longest == 1:
        return score_firsts(laws, [ids[0] for ids in spelt])
    scored = score_lists(contexts, laws, prompts, [spelt] * len(prompts), lm.vocabulary)
    return np.array([[each.log_prob.sum() for each in row] for row in scored])


def _read_question(lm: LanguageModel, question: Any, longest: int) -> Prompt:
    given: dict[str, Any] = {"text" if isinstance(question, str) else "chat": question}
    return lm.prompt(**given, max_tokens=longest).prompts[0]


def _read_model(lm: LanguageModel, prompt: Any, longest: int) -> Prompted:
    """The law behind a text, with room for `longest` tokens and an end, or a given law of one prompt."""
    from feynkac.models.language.prompted import Prompted

    if isinstance(prompt, str):
        return lm.prompt(prompt, max_tokens=longest + 1)
    if not isinstance(prompt, Prompted) or prompt.lm is not lm or len(prompt.prompts) != 1:
        raise ArgumentError(f"score: {quote(prompt)} is no prompt of this model; give a text, or lm.prompt(...)")
    return prompt


def _score_usual(model: Prompted, spelt: Sequence[Ids], end: bool) -> NDArray[np.float64]:
    lm, prompt = model.lm, model.prompts[0]
    eos = set(lm.vocabulary.eos)
    # No text goes on behind an end of sequence, nor beyond the limit.
    distinct = dict.fromkeys(spelt)
    fits = [ids for ids in distinct if can_end(ids, prompt, lm.vocabulary) and not eos & set(ids)]
    contexts = lm.open([prompt.tokens], max(map(len, fits), default=0) + 1)
    start = shape_starts(contexts.start(), [prompt])
    (scored,) = score_lists(contexts, start, [prompt], [fits], lm.vocabulary)
    known = {ids: each.total if end else float(each.log_prob.sum()) for ids, each in zip(fits, scored, strict=True)}
    return np.array([known.get(ids, -np.inf) for ids in spelt])


def _score_all(model: Prompted, text: str) -> float:
    """By itself, since what is negligible beside another text may be all that this one has."""
    law = PromptProblem(model.prompts[0], (Spellings([text]),))
    found = Enumeration(replace(model, problems=(law,))).run(MOST, True, lambda n: None)
    total = float(np.logaddexp.reduce(found.log_prob, initial=-np.inf))
    if found.log_left > total - 18.0:
        raise ArgumentError(
            f"score: {quote(text)} has more than {MOST} prefixes of spellings; score shorter texts, or the "
            "usual spelling"
        )
    return total


class Spellings:
    """The token constraint that accepts every spelling of some texts; states are nodes of the trie of their bytes."""

    name = "spellings"
    start = 0

    def __init__(self, texts: Iterable[str]) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._ends: set[int] = set()
        for text in texts:
            node = 0
            for byte in text.encode():
                if byte not in self._next[node]:
                    self._next[node][byte] = len(self._next)
                    self._next.append({})
                node = self._next[node][byte]
            self._ends.add(node)
        self._tokens: Sequence[bytes] = ()

    def automaton(self, vocabulary: Vocabulary) -> Spellings:
        """This, for the vocabulary of the one model that it is used with."""
        self._tokens, self._eos, self._size = vocabulary.tokens, list(vocabulary.eos), vocabulary.size
        self._ids = _tokens_of.find(vocabulary, _index)
        return self

    def masks(self, states: States) -> TokenMask:
        """See `TokenAutomaton.masks`."""
        allowed = np.zeros((len(states), self._size), np.bool_)
        for row, state in zip(allowed, states.tolist(), strict=True):
            row[self._list_tokens(state)] = True
            row[self._eos] = state in self._ends
        return pack(allowed)

    def advance(self, states: States, tokens: NDArray[np.int64]) -> States:
        """See `TokenAutomaton.advance`."""
        moved = (self._follow(node, self._tokens[t]) for node, t in zip(states.tolist(), tokens.tolist(), strict=True))
        return np.fromiter(moved, np.int64, len(states))

    def accepts(self, states: States) -> NDArray[np.bool_]:
        """See `TokenAutomaton.accepts`."""
        return np.array([state in self._ends for state in states.tolist()], np.bool_)

    def _follow(self, node: int, written: bytes) -> int:
        for byte in written:
            node = -1 if node < 0 else self._next[node].get(byte, -1)
        return node

    def _list_tokens(self, node: int) -> list[int]:
        """The tokens whose bytes lead on from a node."""
        found: list[int] = []
        reached = [(b"", node)]
        while reached:
            written, at = reached.pop()
            found += self._ids.get(written, [])
            reached += [(written + bytes([byte]), after) for byte, after in self._next[at].items()]
        return found


def _index(vocabulary: Vocabulary) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for i, token in enumerate(vocabulary.tokens):
        if token:
            found.setdefault(token, []).append(i)
    return found
