"""LLaMPPL programs after a change of one import: their meaning, exactly, and five of them on a real model."""

from __future__ import annotations

import asyncio
import json
import math
import string

import numpy as np
import pytest

import feynkac as fk
from feynkac.base.errors import ArgumentError, ProgramError
from feynkac.programs.compat.llamppl import (
    Bernoulli,
    CachedCausalLM,
    Distribution,
    Geometric,
    LMContext,
    LogCategorical,
    Model,
    SubModel,
    Token,
    TokenCategorical,
    TokenSequence,
    Transformer,
    log_softmax,
    sample_word,
    sample_word_2,
    smc_standard,
    smc_steer,
    softmax,
    submodel,
)
from feynkac.smc.testing import expectation


@pytest.fixture
def tiny(tiny_lm):
    return CachedCausalLM(tiny_lm())


@pytest.fixture(scope="module")
def smol(smollm2):
    return CachedCausalLM.from_pretrained(str(smollm2), hf_opts={"dtype": "float32"})


@pytest.fixture
def small(tiny_lm):
    return CachedCausalLM(tiny_lm("b", "e"))


def run(inference, *args, **options):
    return asyncio.run(inference(*args, **options))


# --- the programs --------------------------------------------------------------------------------------------------


class NoE(Model):
    """No letter e."""

    def __init__(self, lm, prompt, max_tokens):
        super().__init__()
        self.context = LMContext(lm, prompt)
        self.left = max_tokens
        self.eos = lm.tokenizer.eos_token_id

    async def step(self):
        token = await self.sample(self.context.next_token())
        self.left -= 1
        if token == self.eos:
            self.finish()
            return
        self.condition("e" not in str(token).lower())
        if self.left == 0:
            self.finish()


class ShortWords(Model):
    """Words of at most three letters: what may come next is observed before it is sampled."""

    def __init__(self, lm, prompt, max_tokens):
        super().__init__()
        self.context = LMContext(lm, prompt, temp=0.9)
        self.left = max_tokens
        fine = {i: v for i, v in enumerate(lm.str_vocab) if v.strip().isalpha() and v.isascii() and "\n" not in v}
        self.masks = {
            n: {i for i, v in fine.items() if len(v.strip()) <= 3 and (v[0] == " " or n + len(v) <= 3)}
            for n in range(4)
        }  # fmt: skip

    async def step(self):
        words = str(self.context).split(" ")
        await self.observe(self.context.mask_dist(self.masks[len(words[-1])]), True)
        await self.sample(self.context.next_token())
        self.left -= 1
        if self.left == 0:
            self.finish()

    def immutable_properties(self):
        return {"masks"}


def syllables(word):
    vowels = "".join(c if c in "aeiouy" else " " for c in word.lower())
    return max(len(vowels.split()), 1)


class Haiku(Model):
    """Lines with given numbers of vowel groups."""

    def __init__(self, lm, prompt, pattern):
        super().__init__()
        self.context = LMContext(lm, prompt)
        self.pattern = list(pattern)
        self.newline = lm.str_vocab.index("\n")

    async def step(self):
        left = self.pattern.pop(0)
        while left > 0:
            word, _ = await self.call(sample_word(self.context))
            left -= syllables(word)
        self.condition(left == 0)
        await self.observe(self.context.next_token(), self.newline)
        if not self.pattern:
            self.finish()

    def string_for_serialization(self):
        return str(self.context).replace("\n", "/")


class Intersection(Model):
    """A text that fits two prompts."""

    def __init__(self, lm, first, second, max_tokens):
        super().__init__()
        self.contexts = LMContext(lm, first), LMContext(lm, second)
        self.left, self.eos = max_tokens, lm.tokenizer.eos_token_id

    async def step(self):
        first, second = self.contexts
        token = await self.sample(first.next_token())
        await self.observe(second.next_token(), token)
        self.left -= 1
        if token == self.eos or self.left == 0:
            self.finish()


class Infilling(Model):
    """Gaps of random length between given pieces of text."""

    def __init__(self, lm, pieces):
        super().__init__()
        self.lm, self.pieces = lm, list(pieces)
        self.text = TokenSequence(lm, self.pieces.pop(0))

    async def step(self):
        for _ in range(await self.sample(Geometric(0.5))):
            self.text += await self.sample(Transformer(self.lm, self.text))
        piece = self.pieces.pop(0)
        for token in self.lm.tokenizer(piece, add_special_tokens=False)["input_ids"]:
            self.text += await self.observe(Transformer(self.lm, self.text), token)
        if not self.pieces:
            self.finish()


# --- exactness -----------------------------------------------------------------------------------------------------


def brute_force(lm, prompt, depth, allowed):
    """The probability that a text of at most `depth` tokens consists of allowed ones."""
    p = softmax(lm.next_token_logprobs_unbatched(prompt))
    return sum(
        p[i] if i == 0 or depth == 1 else p[i] * brute_force(lm, [*prompt, i], depth - 1, allowed) for i in allowed
    )


def z_hat(inference, model, *args, **options):
    return lambda rng: math.exp(run(inference, model, *args, seed=rng, **options).log_evidence)


@pytest.mark.parametrize("method", ["multinomial", "systematic"])
def test_evidence_is_unbiased(small, method) -> None:
    truth = brute_force(small, [1], 2, (0, 1))
    estimate = expectation(
        z_hat(smc_standard, NoE(small, "b", 2), 2, resampling_method=method, ess_threshold=0.9), max_runs=10_000
    )
    assert estimate == pytest.approx(truth, abs=1e-6)


def test_steering_without_replacement_is_unbiased(small) -> None:
    truth = brute_force(small, [1], 2, (0, 1))
    assert expectation(z_hat(smc_steer, NoE(small, "b", 2), 1, 2), max_runs=10_000) == pytest.approx(truth, abs=1e-6)


class Everything(Model):
    """Masks, twists, a proposal, a sub-model and scores."""

    def __init__(self, lm):
        super().__init__()
        self.context, self.drawn = LMContext(lm, "a", temp=0.7), []

    async def start(self):
        await self.observe(self.context.mask_dist({0}), False)

    async def step(self):
        if await self.sample(self.context.mask_dist({1, 2})):
            self.twist(1.5)
        token = await self.call(doubled(self.context))
        self.twist(-0.5 * int(token))
        self.drawn.append(token)
        if len(self.drawn) == 2:
            self.score(0.25)
            self.finish()
            self.twist(3.0)


@submodel
async def doubled(self, context):
    logits = context.next_token_logprobs
    token = await self.sample(context.next_token(), TokenCategorical(context.lm, logits / 2))
    self.score(-math.log(1 + int(token)))
    return token


def test_masks_twists_proposals_and_sub_models(tiny) -> None:
    def law(ids):
        return softmax(tiny.next_token_logprobs_unbatched(ids) / 0.7)

    first = law([1])
    truth = math.exp(0.25) * sum(first[i] / (1 + i) * law([1, i])[j] / (1 + j) for i in (1, 2, 3) for j in range(4))
    estimate = expectation(z_hat(smc_standard, Everything(tiny), 1), max_runs=10_000)
    assert estimate == pytest.approx(truth, rel=1e-5)
    particles = run(smc_standard, Everything(tiny), 400, seed=2)
    assert particles.log_evidence == pytest.approx(math.log(truth), abs=0.25)
    for particle in particles:
        assert particle.context.tokens == [1, *map(int, particle.drawn)]


def test_the_evidence_is_that_of_steer(tiny) -> None:
    ours = [run(smc_standard, NoE(tiny, "a", 4), 30, seed=s).log_evidence for s in range(8)]
    theirs = [
        fk.steer(tiny.lm.prompt("a", max_tokens=4), fk.regex("[^e]*"), particles=30, seed=s).log_evidence
        for s in range(8)
    ]
    error = math.hypot(np.std(ours, ddof=1), np.std(theirs, ddof=1)) / math.sqrt(8)
    assert abs(np.mean(ours) - np.mean(theirs)) < 4.5 * error  # 2e-4 of t tests with 14 degrees fail


def test_intersection_against_brute_force(tiny) -> None:
    p, q = (softmax(tiny.next_token_logprobs_unbatched(ids)) for ids in ([1], [2]))
    estimate = expectation(z_hat(smc_standard, Intersection(tiny, "a", "b", 1), 2))
    assert estimate == pytest.approx(float(p @ q), abs=1e-6)


def test_words_have_the_right_weight(tiny_lm) -> None:
    lm = CachedCausalLM(tiny_lm("a", " b", "."))

    class Word(Model):
        def __init__(self):
            super().__init__()
            self.context, self.word = LMContext(lm, "a"), None

        async def step(self):
            self.word = await self.call(self.made())
            self.finish()

    class Any2(Word):
        def made(self):
            return sample_word(self.context, max_tokens=2)

    class Short(Word):
        def made(self):
            return sample_word_2(self.context, max_chars=1)

    # A word is " b" or " ba", then no letter: by hand from the law of the next token.
    def p(*ids):
        return softmax(lm.next_token_logprobs_unbatched([1, *ids]))

    ends = p()[2] * (1 - p(2)[1]) + p()[2] * p(2)[1] * (1 - p(2, 1)[1])
    assert expectation(z_hat(smc_standard, Any2(), 1)) == pytest.approx(ends, rel=1e-5)
    assert expectation(z_hat(smc_standard, Short(), 1)) == pytest.approx(p()[2] * (1 - p(2)[1]), rel=1e-5)
    assert {particle.word[0] for particle in run(smc_standard, Short(), 8, seed=0)} == {" b"}


# --- particles -----------------------------------------------------------------------------------------------------


class Collector(Model):
    def __init__(self):
        super().__init__()
        self.items, self.count = [], {}

    async def step(self):
        x = await self.sample(LogCategorical([0.0, 0.0, 0.0]))
        await asyncio.sleep(0)
        self.items.append(x)
        self.count[x] = self.count.get(x, 0) + 1
        self.score(float(x))
        if len(self.items) == 8:
            self.finish()


def test_forks_share_nothing_that_can_change() -> None:
    particles = run(smc_standard, Collector(), 32, ess_threshold=1.0, seed=1)
    assert len({id(particle.items) for particle in particles}) == 32
    for particle in particles:
        assert particle.count == {x: particle.items.count(x) for x in particle.items}


def test_a_run_repeats_itself() -> None:
    def items(**options):
        return [particle.items for particle in run(smc_standard, Collector(), 4, **options)]

    assert items(seed=5) == items(seed=5) != items(seed=6)
    np.random.seed(3)  # noqa: NPY002
    first = items()
    np.random.seed(3)  # noqa: NPY002
    assert items() == first


def test_one_forward_pass_serves_all(tiny) -> None:
    passes = []
    model = tiny.lm.model
    handle = model.register_forward_hook(lambda *a, **k: passes.append(1))
    try:
        run(smc_standard, NoE(tiny, "a", 2), 2)  # the cache tries itself on each model and its hooks once
        tiny.clear_cache()
        passes.clear()
        run(smc_standard, NoE(tiny, "a", 5), 16, seed=0)
    finally:
        handle.remove()
    assert len(passes) <= 5


def test_coroutines_may_wait_for_others(tiny) -> None:
    class Waits(NoE):
        async def step(self):
            await asyncio.sleep(0.001 * self.left)
            await asyncio.gather(super().step(), asyncio.to_thread(math.sqrt, 2.0))

    assert len(run(smc_standard, Waits(tiny, "a", 3), 4, seed=0)) == 4


def test_an_error_says_which_particle() -> None:
    class Fails(Collector):
        async def step(self):
            await super().step()
            raise KeyError("mine")

    with pytest.raises(ProgramError, match="in Fails, particle 0, step 0: it raised KeyError in step") as caught:
        run(smc_standard, Fails(), 2)
    assert type(caught.value.__cause__) is KeyError


def test_dead_particles_end_a_run(tiny) -> None:
    class Impossible(Model):
        async def step(self):
            await self.observe(Bernoulli(0.0), True)

    particles = run(smc_standard, Impossible(), 3)
    assert [particle.weight for particle in particles] == [-math.inf] * 3

    class NoMask(Model):
        def __init__(self):
            super().__init__()
            self.context = LMContext(tiny, "a")

        async def step(self):
            await self.observe(self.context.mask_dist(set()), True)
            await self.sample(self.context.next_token())

    assert run(smc_standard, NoMask(), 2).log_evidence == -math.inf


def test_a_record_of_the_run(tmp_path, capsys, tiny) -> None:
    run(smc_standard, NoE(tiny, "a", 4), 4, 0.9, str(tmp_path / "html"), "out.json", seed=1)
    records = json.loads((tmp_path / "html" / "out.json").read_text())
    assert records[0]["mode"] == "init" and records[0]["step"] == 1
    assert set(records[0]["particles"][0]) == {"contents", "logweight", "weight_incr"}
    assert all("ancestors" in record for record in records if record["mode"] == "resample")


# --- tokens, contexts, distributions -------------------------------------------------------------------------------


def test_tokens_and_sequences(tiny) -> None:
    a, b = Token(tiny, 1, "a"), Token(tiny, 2, "b")
    assert a == 1 and a == "a" and a != b and int(a) == 1 and str(a) == "a" and a in {a: 0}
    assert ((a + b) + "ab" + 3).seq == [1, 2, 1, 2, 3]
    assert ("b" + TokenSequence(tiny, [1])).seq == [2, 1] and (a + TokenSequence(tiny, "b")).seq == [1, 2]
    text = TokenSequence(tiny, "a")
    longer = text + "b"
    assert (str(text), str(longer)) == ("a", "ab")
    with pytest.raises(ArgumentError, match="cannot be added"):
        text + 1.5


def test_contexts_outside_of_runs(tiny) -> None:
    async def written():
        context = await LMContext.create(tiny, "a", 0.5)
        first = context.next_token_logprobs
        assert context.model_mask == tiny.masks.ALL_TOKENS
        yes = await context.mask_dist({1, 2}).log_prob(True)
        assert yes == pytest.approx(np.logaddexp(first[1], first[2]), abs=1e-5)
        assert context.model_mask == {1, 2}
        np.testing.assert_allclose(context.next_token_logprobs[1], first[1] - yes, atol=1e-5)
        token, log_p = await context.next_token().sample()
        assert log_p == pytest.approx(first[int(token)] - yes, abs=1e-5)
        await context.next_token().log_prob(0)
        return context, token

    context, token = asyncio.run(written())
    assert context.tokens == [1, int(token), 0] and context.token_count == 2
    assert str(context) == f"{token}</s>"
    context.show_eos, context.show_prompt = False, True
    assert str(context) == f"a{token}"
    np.testing.assert_allclose(
        tiny.next_token_logprobs_unbatched([1, 2]), asyncio.run(tiny.next_token_logprobs([1, 2])), atol=1e-6
    )


def test_distributions(tiny) -> None:
    async def drawn():
        assert (await Bernoulli(1.0).sample())[0] is True
        assert await Geometric(0.5).log_prob(3) == pytest.approx(3 * math.log(0.5))
        law = LogCategorical(np.array([0.0, -np.inf, 0.0]))
        assert {(await law.sample())[0] for _ in range(40)} == {0, 2} and await law.argmax(2) == 1
        warm = Transformer(tiny, "a", temp=3.0)
        total = sum([math.exp(await warm.log_prob(i)) for i in range(4)])
        assert total == pytest.approx(1.0, abs=1e-5)
        assert isinstance((await warm.sample())[0], Token)
        with pytest.raises(ArgumentError, match="3 logits for a vocabulary of 4"):
            TokenCategorical(tiny, [0.0, 1.0, 2.0])

    asyncio.run(drawn())
    np.testing.assert_allclose(log_softmax([0.0, math.log(3.0)]), np.log([0.25, 0.75]))


def test_a_distribution_of_ones_own() -> None:
    class Die(Distribution):
        async def sample(self):
            return 4, -math.log(6)

        async def log_prob(self, x):
            return -math.log(6)

    class Rolls(Model):
        async def step(self):
            assert await self.sample(Bernoulli(0.5), proposal=Bernoulli(0.5)) in (True, False)
            await self.observe(Die(), await self.intervene(Die(), 3))
            self.finish()

    assert run(smc_standard, Rolls(), 2, seed=0).log_evidence == pytest.approx(-math.log(6))
    assert issubclass(type(sample_word(None)), SubModel)


# --- on a real model -----------------------------------------------------------------------------------------------


def test_no_letter_e(smol) -> None:
    particles = run(smc_standard, NoE(smol, "The weather today is", 8), 8, seed=1)
    alive = [particle for particle in particles if particle.weight > -math.inf]
    assert alive and all("e" not in str(particle.context).lower() for particle in alive)


def test_short_words(smol) -> None:
    particles = run(smc_standard, ShortWords(smol, "My dog", 6), 6, seed=1)
    assert all(len(word) <= 3 for particle in particles for word in str(particle.context).split())
    assert particles.log_evidence < 0.0


def test_haiku(smol) -> None:
    prompt = "Three short lines about rain.\n\nsoft rain falls\non the old roof\n\n"
    particles = run(smc_standard, Haiku(smol, prompt, [2, 3]), 12, seed=3)
    alive = [str(particle.context) for particle in particles if particle.weight > -math.inf]
    assert alive
    for text in alive:
        lines = [line.strip(string.punctuation + " ") for line in text.strip("\n").split("\n")]
        assert len(lines) == 2 and text.endswith("\n")


def test_prompt_intersection(smol) -> None:
    particles = run(smc_standard, Intersection(smol, "My favourite fruit is", "My favourite colour is", 4), 6, seed=1)
    assert all(str(a) == str(b) for particle in particles for a, b in [particle.contexts])


def test_infilling(smol) -> None:
    particles = run(smc_steer, Infilling(smol, ["Well, you see, every", " he", " another!"]), 3, 2, seed=1)
    assert len(particles) == 3
    for particle in particles:
        assert str(particle.text).startswith("Well, you see, every") and str(particle.text).endswith(" another!")
