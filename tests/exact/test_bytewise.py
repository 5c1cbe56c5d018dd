"""Language models over bytes against brute force: sums over all ways to spell a text, and what beams drop of them."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from test_experts import check_exact
from test_language_model import Remembered, remember

import feynkac as fk
from feynkac.models.language.bytewise.beams import END
from feynkac.steering.problems import prepare

TOKENS = ("a", "b", "ab", "ba", "aba", "bb")


class Spelt:
    """The mass of texts under a model over tokens, by recursion over all ways to spell them."""

    def __init__(self, lm, prompt: str) -> None:
        self.store, self.start = Remembered(lm.model, [], 0), lm.prompt(prompt).prompts[0].tokens
        self.tokens, self.eos = lm.vocabulary.tokens, list(lm.vocabulary.eos)
        self._next: dict = {}

    def next(self, ids: tuple[int, ...]) -> np.ndarray:
        if ids not in self._next:
            logits = self.store._look_up([(*self.start, *ids)])[0].double().numpy()
            logits[[i for i, text in enumerate(self.tokens) if not text and i not in self.eos]] = -np.inf
            self._next[ids] = np.exp(logits - np.logaddexp.reduce(logits))
        return self._next[ids]

    def begins(self, text: bytes, ids: tuple[int, ...] = ()) -> float:
        """The probability that what is written begins with `text`."""
        if not text:
            return 1.0
        return sum(
            p * (self.begins(text[len(token) :], (*ids, i)) if text.startswith(token) else 1.0)
            for i, (token, p) in enumerate(zip(self.tokens, self.next(ids), strict=True))
            if token and (text.startswith(token) or token.startswith(text))
        )

    def ends(self, text: bytes, ids: tuple[int, ...] = ()) -> float:
        """The probability that `text` is written, and then the end."""
        if not text:
            return float(self.next(ids)[self.eos].sum())
        return sum(
            self.next(ids)[i] * self.ends(text[len(token) :], (*ids, i))
            for i, token in enumerate(self.tokens)
            if token and text.startswith(token)
        )

    def __call__(self, text: bytes, ended: bool) -> float:
        return self.ends(text) if ended else self.begins(text)


def list_texts(length: int, letters: bytes = b"ab") -> list[bytes]:
    return [bytes(text) for n in range(length + 1) for text in itertools.product(letters, repeat=n)]


def walk(model, prompt: str, texts: list[bytes]):
    """Contexts behind all `texts`, in one store, grown byte by byte; of each also the law at each byte of it."""
    contexts = model.open([model.prompt(prompt).prompts[0].tokens] * len(texts), 8)
    contexts.start()
    laws = [contexts.log_laws(np.arange(len(texts)))]
    for i in range(max(map(len, texts))):
        given = np.array([text[i] if i < len(text) else -1 for text in texts])
        contexts.extend(np.arange(len(texts)), given)
        laws.append(contexts.log_laws(np.arange(len(texts))))
    found = [sum(laws[i][row, byte] for i, byte in enumerate(text)) for row, text in enumerate(texts)]
    return contexts, np.array(found), laws[-1]


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm(*TOKENS, seed=4)


@pytest.fixture(scope="module")
def other(tiny_lm):
    """A model of another tokenizer."""
    return tiny_lm("b", "a", "aa", "bab", seed=9)


@pytest.fixture(autouse=True)
def _remembered(monkeypatch) -> None:
    remember(monkeypatch)


def test_without_a_beam_the_mass_of_each_text_is_the_sum_over_all_its_spellings(lm) -> None:
    texts, truth = list_texts(4), Spelt(lm, "a")
    contexts, log_begins, laws = walk(fk.bytewise(lm, beam=None), "a", texts)
    np.testing.assert_allclose(log_begins, [math.log(truth(text, False)) for text in texts], rtol=0, atol=1e-10)
    log_ends = log_begins + laws[:, END]
    np.testing.assert_allclose(log_ends, [math.log(truth(text, True)) for text in texts], rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.logaddexp.reduce(laws, axis=1), 0.0, atol=1e-10)
    assert not contexts.dropped.any()


def test_scores_are_those_of_all_spellings_of_the_model_beneath(lm) -> None:
    texts = ["", "ab", "aba", "bbab"]
    model = fk.bytewise(lm, beam=None)
    np.testing.assert_allclose(model.score("a", texts), lm.score("a", texts, spellings="all"), atol=1e-5)


@pytest.mark.parametrize(("beam", "least"), [(1, 0.0), (2, 0.0), (3, 0.2), (50, 0.05)])
def test_what_a_beam_drops_bounds_the_error_of_each_text_from_above(lm, beam, least) -> None:
    texts, truth = list_texts(4), Spelt(lm, "b")
    contexts, log_begins, laws = walk(fk.bytewise(lm, beam=beam, least=least), "b", texts)
    exact = np.log([truth(text, False) for text in texts])
    assert contexts.dropped.max() > 0.01
    assert (log_begins - contexts.dropped <= exact + 1e-10).all()
    ends = np.log([truth(text, True) for text in texts])
    assert (log_begins + laws[:, END] - contexts.dropped <= ends + 1e-10).all()
    np.testing.assert_allclose(np.logaddexp.reduce(laws, axis=1), 0.0, atol=1e-10)


def test_a_beam_keeps_what_can_go_on_with_any_byte(lm) -> None:
    _, log_begins, laws = walk(fk.bytewise(lm, beam=1), "b", list_texts(4))
    assert np.isfinite(log_begins).all() and np.isfinite(laws[:, [*b"ab", END]]).all()


def test_a_beam_that_is_wide_enough_drops_nothing(lm) -> None:
    texts = list_texts(4)
    contexts, log_begins, _ = walk(fk.bytewise(lm, beam=64, least=0.0), "b", texts)
    np.testing.assert_allclose(log_begins, walk(fk.bytewise(lm, beam=None), "b", texts)[1], atol=1e-12)
    assert not contexts.dropped.any()


def test_a_healed_prompt_is_conditioned_on_as_bytes(lm) -> None:
    """P(text | prompt) is P(prompt's last bytes, text) / P(prompt's last bytes), behind the tokens before them."""
    model, before, texts = fk.bytewise(lm, beam=None, heal=2), Spelt(lm, "b"), list_texts(3)
    assert model.prompt("bab").prompts[0].tokens == (END + 1 + lm.spell("b")[0], *b"ab")
    _, log_begins, laws = walk(model, "bab", texts)
    exact = [math.log(before(b"ab" + text, True) / before(b"ab", False)) for text in texts]
    np.testing.assert_allclose(log_begins + laws[:, END], exact, rtol=0, atol=1e-10)


def test_several_tokens_of_equal_bytes_and_of_none(tiny_lm) -> None:
    lm = tiny_lm("a", "b", "ab", "ba", "c", seed=1, eos=(0, 5))
    tokens = list(lm.vocabulary.tokens)
    tokens[4], tokens[2] = b"ab", b""  # token 4 is written as token 3 is, and token 2 has no text
    object.__setattr__(lm.vocabulary, "tokens", tuple(tokens))
    truth = Spelt(lm, "a")
    texts = [text for text in list_texts(4) if truth.begins(text) > 0]
    assert b"aab" in texts and b"b" not in texts
    _, log_begins, laws = walk(fk.bytewise(lm, beam=None), "a", texts)
    exact = np.array([[truth(text, False), truth(text, True)] for text in texts])
    np.testing.assert_allclose(np.exp(log_begins), exact[:, 0], rtol=1e-10)
    np.testing.assert_allclose(np.exp(log_begins + laws[:, END]), exact[:, 1], rtol=1e-10)


def test_contexts_may_be_forked_kept_and_grown_by_several_bytes(lm) -> None:
    model = fk.bytewise(lm, beam=None)
    contexts = model.open([model.prompt("a").prompts[0].tokens], 8)
    contexts.start()
    lists = [list(b"ab"), [], list(b"abba"), list(b"b")]
    every = contexts.append(np.zeros(4, np.int64), lists, every=True)
    assert every.shape == (7, 257) and contexts.lengths.tolist() == [3, 1, 5, 2]
    again = contexts.extend(np.array([2, 0, 0]), np.array([-1, ord("b"), ord("a")]))
    truth = Spelt(lm, "a")

    def law(text: bytes) -> list[float]:
        p = [truth(text + bytes([byte]), False) for byte in b"ab"]
        return [x / truth(text, False) for x in (*p, truth(text, True))]

    behind = [b"a", b"ab", b"a", b"ab", b"abb", b"abba", b"b"]
    for found, texts in ((every, behind), (again, [b"abb", b"aba"])):
        np.testing.assert_allclose(found[:, [*b"ab", END]].exp(), [law(text) for text in texts], rtol=1e-5)


def make_target(model, truth, limit: int, at_limit: str, weigh=lambda text, ended: 1.0) -> dict[str, float]:
    target = {}
    for text in list_texts(limit):
        ended = len(text) < limit or at_limit == "end"
        target[text.decode()] = truth(text, ended) * weigh(text, ended)
    return {text: mass for text, mass in target.items() if mass > 0}


class Rounded(Spelt):
    """The same, by the float32 law of the next byte: what the engine is given."""

    def __init__(self, model, prompt: str) -> None:
        self.model, self.prompt = model, prompt
        self.law = functools.cache(self._law)

    def _law(self, text: bytes) -> np.ndarray:
        contexts = self.model.open([self.model.prompt(self.prompt).prompts[0].tokens], 8)
        logits = contexts.start()
        if text:
            logits = contexts.append(np.array([0]), [list(text)])
        logits = logits[0].double().numpy()
        return np.exp(logits - np.logaddexp.reduce(logits))

    def __call__(self, text: bytes, ended: bool) -> float:
        p = math.prod(self.law(text[:i])[byte] for i, byte in enumerate(text))
        return p * (self.law(text)[END] if ended else 1.0)


@pytest.mark.parametrize("at_limit", ["truncate", "end"])
@pytest.mark.parametrize("beam", [None, 1])
def test_constraints_on_bytes_have_the_right_evidence_over_all_runs(lm, beam, at_limit) -> None:
    model = fk.bytewise(lm, beam=beam)
    pattern = fk.regex("(ab|b)*")
    task = model.prompt("a", max_tokens=2, at_limit=at_limit)
    target = make_target(model, Rounded(model, "a"), 2, at_limit)
    check_exact(prepare(task, pattern), pattern, {text: target[text] for text in ("", "b", "ab", "bb")})


@pytest.mark.parametrize("power", [1.0, -0.5])
def test_models_of_different_tokenizers_are_experts_of_each_other_at_every_byte(lm, other, power) -> None:
    one, two = fk.bytewise(lm, beam=None), fk.bytewise(other, beam=None)
    task, expert = one.prompt("a", max_tokens=2), fk.expert(two.prompt("b"), power=power)
    his = Rounded(two, "b")
    target = make_target(one, Rounded(one, "a"), 2, "truncate", lambda *x: his(*x) ** power)
    check_exact(prepare(task, expert), expert, target)
    known, hers = Spelt(lm, "a"), Spelt(other, "b")
    exact = make_target(one, known, 2, "truncate", lambda *x: hers(*x) ** power)
    np.testing.assert_allclose([target[text] for text in exact], list(exact.values()), rtol=1e-5)


def test_models_of_different_tokenizers_are_mixed(lm, other) -> None:
    one, two = fk.bytewise(lm, beam=None), fk.bytewise(other, beam=None)
    mixed = fk.mixture([one.prompt("b"), two.prompt("b")], [1, 3])
    result = fk.steer(one.prompt("a", max_tokens=3), mixed, algorithm="exact")
    p, q, r = Spelt(lm, "a"), Spelt(lm, "b"), Spelt(other, "b")
    target = make_target(one, p, 3, "truncate", lambda *x: (q(*x) + 3 * r(*x)) / 4)
    assert result.log_evidence == pytest.approx(math.log(sum(target.values())), abs=1e-5)
    posterior = result.posterior()
    assert set(posterior) == set(target)
    z = sum(target.values())
    np.testing.assert_allclose([posterior[x] for x in target], [m / z for m in target.values()], rtol=1e-4)


def test_a_rare_byte_is_as_exact_as_a_likely_one(tiny_lm, monkeypatch) -> None:
    """Nothing underflows: the mass of a token of -2,000 nats."""
    lm = tiny_lm(*TOKENS, seed=4)
    monkeypatch.setattr(Remembered, "_look_up", _lower(Remembered._look_up))
    _, log_begins, _ = walk(fk.bytewise(lm, beam=None), "a", [b"b", b"bb"])
    assert (log_begins < -1900).all() and np.isfinite(log_begins).all()


def _lower(look_up):
    def lowered(self, histories):
        logits = look_up(self, histories).clone()
        logits[:, [2, 4, 6]] -= 2000.0
        return logits

    return lowered
