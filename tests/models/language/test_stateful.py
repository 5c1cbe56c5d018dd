"""Extensions, forks, ends and returns in random order, by Hypothesis, against an oracle that remembers lists of tokens.

Stores of contexts, remembered prompts, populations of texts, byte models: whatever came before, each must say what a
forward pass of the whole text says.
"""

from __future__ import annotations

import functools
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from tiny import VOCAB, tiny
from walks import recompute

import feynkac as fk
from feynkac.models.language.caches.plain import PlainContexts
from feynkac.models.language.caches.shared import SharedContexts
from feynkac.models.language.caches.twin import Twins
from feynkac.smc.rng import Streams
from feynkac.steering.checkpoints.trees import Reader, Writer

SHARED, PLAIN = ("llama", "gpt2"), ("mamba", "gemma3")
TOKEN = st.integers(0, VOCAB - 1)
PROMPT = st.lists(TOKEN, min_size=1, max_size=5)
_tiny = functools.cache(tiny)


def quickly(steps: int = 9, examples: int = 5) -> settings:
    """A few short walks, the same each time."""
    return settings(
        max_examples=examples, stateful_step_count=steps, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def thoroughly() -> settings:
    return settings(max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))


class Stores(RuleBasedStateMachine):
    """A store of contexts: prompts, extensions by one token or several, forks, contexts that are let go."""

    @initialize(name=st.sampled_from([*SHARED, *PLAIN]), prompts=st.lists(PROMPT, min_size=1, max_size=3))
    def open(self, name: str, prompts: list[list[int]]) -> None:
        self.model, self.texts = _tiny(name), [list(prompt) for prompt in prompts]
        twins = Twins(self.model)
        self.store: Any = SharedContexts(twins, prompts, 20) if name in SHARED else PlainContexts(twins, prompts)
        self.check(self.store.start(), self.texts)

    @rule(data=st.data(), most=st.sampled_from([1, 1, 1, 3]))
    def go_on(self, data: Any, most: int) -> None:
        parent = st.integers(0, len(self.texts) - 1)
        child = st.tuples(parent, st.lists(TOKEN, max_size=most).map(tuple))
        children = data.draw(st.lists(child, min_size=1, max_size=6, unique=True))
        parents, new = np.array([i for i, _ in children]), [list(some) for _, some in children]
        if most == 1:
            logits = self.store.extend(parents, np.array([some[0] if some else -1 for some in new]))
        else:
            logits = self.store.append(parents, new)
        self.texts = [self.texts[i] + some for i, some in zip(parents, new, strict=True)]
        self.check(logits, [text for text, some in zip(self.texts, new, strict=True) if some])
        assert self.store.lengths.tolist() == [len(text) for text in self.texts]

    def check(self, logits: torch.Tensor, texts: list[list[int]]) -> None:
        assert len(logits) == len(texts)
        if texts:
            torch.testing.assert_close(logits, recompute(self.model, texts), atol=1e-4, rtol=1e-4)


class Remembering(RuleBasedStateMachine):
    """Prompts that are remembered and forgotten, while others are opened, that begin alike or not."""

    def __init__(self) -> None:
        super().__init__()
        self.lm = _lm()
        self.kept: list[Any] = []

    @rule(prompt=st.lists(st.integers(1, 3), min_size=1, max_size=40))
    def remember(self, prompt: list[int]) -> None:
        self.kept.append(self.lm.remember(self.lm.prompt(tokens=prompt, max_tokens=1)))

    @rule(prompts=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=40), min_size=1, max_size=3))
    def open(self, prompts: list[list[int]]) -> None:
        logits = self.lm.open(prompts, 2).start()
        torch.testing.assert_close(logits, recompute(self.lm.model, prompts), atol=1e-5, rtol=1e-5)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def begin_alike(self, data: Any) -> None:
        known = data.draw(st.sampled_from(self.kept))
        ids = next((list(each.ids) for each in self.lm.find_twins().remembered._kept if known.is_kept), [1])
        self.open([ids[: data.draw(st.integers(1, len(ids)))] + data.draw(st.lists(st.integers(1, 3), max_size=4))])

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def forget(self, data: Any) -> None:
        self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1))).forget()

    def teardown(self) -> None:
        self.lm.forget()


class Populations(RuleBasedStateMachine):
    """Texts of a run: steps, forks, deaths, populations that are kept and gone back to, runs that are taken up."""

    @initialize(seed=st.integers(0, 2**32), pattern=st.sampled_from([None, "[ab]*", "(ab|e)*"]), n=st.integers(1, 5))
    def open(self, seed: int, pattern: str | None, n: int) -> None:
        self.lm, self.streams, self.t = _lm(), Streams(seed), 0
        task = self.lm.prompt("ab", max_tokens=12)
        self.task = task if pattern is None else task.constrain([fk.regex(pattern)])
        self.state: Any = self.task.init(n, self.streams.at("init", 0, [n]))
        self.rows: list[list[int]] = [[] for _ in range(n)]
        self.saved: list[tuple[Any, list[list[int]]]] = []

    @rule()
    def step(self) -> None:
        running, n = self.state.running.copy(), len(self.rows)
        self.state, increment = self.task.step(self.t, self.state, self.streams.at("propose", self.t, [n]))
        self.t += 1
        for i in np.flatnonzero(running & (increment > -np.inf)).tolist():
            drawn = self.task.trace(self.state, i).tolist()
            assert drawn[:-1] == self.rows[i]
            self.rows[i] = drawn
        self.check()

    @rule(data=st.data())
    def fork(self, data: Any) -> None:
        rows = data.draw(st.lists(st.integers(0, len(self.rows) - 1), min_size=1, max_size=6))
        self.state, self.rows = self.state.fork(np.array(rows)), [list(self.rows[i]) for i in rows]
        self.check()

    @rule(data=st.data())
    def retire(self, data: Any) -> None:
        i = data.draw(st.integers(0, len(self.rows) - 1))
        self.state.retire(np.array([i]))

    @precondition(lambda self: self.t)
    @rule()
    def keep(self) -> None:
        self.saved.append((self.state.keep(), [list(row) for row in self.rows]))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def go_back(self, data: Any) -> None:
        kept, rows = data.draw(st.sampled_from(self.saved))
        everyone = np.arange(len(rows))
        self.saved.append((self.state.keep(), [list(row) for row in self.rows]))
        self.state, self.rows = kept.fork(everyone), [list(row) for row in rows]
        self.check()

    @precondition(lambda self: self.t)
    @rule()
    def take_up(self) -> None:
        """The population is written and read, with all that are kept, as a run that was killed is taken up."""
        writer = Writer({})
        tree = writer.write(self.task.save(self.state.concat([kept for kept, _ in self.saved])))
        whole = self.task.load(Reader(writer.tensors, {}).read(json.loads(json.dumps(tree))))
        ends = np.cumsum([len(self.rows), *(len(rows) for _, rows in self.saved)]).tolist()
        self.state, *kept = (whole.fork(np.arange(*pair)) for pair in itertools.pairwise([0, *ends]))
        self.saved = [(each.keep(), rows) for each, (_, rows) in zip(kept, self.saved, strict=True)]
        self.check()

    def check(self) -> None:
        for i, row in enumerate(self.rows):
            assert self.task.trace(self.state, i).tolist() == row
            eos = [token for token in row if token in self.lm.vocabulary.eos]
            assert self.state.texts(np.array([i])) == [self.lm.vocabulary.text([t for t in row if t not in eos])]
        log_prob = self.state.tell_log_prob(np.arange(len(self.rows)))
        np.testing.assert_allclose(log_prob, [self.log_prob(row) for row in self.rows], atol=1e-4)

    def log_prob(self, row: list[int]) -> float:
        prompt = list(self.task.prompts[0].tokens)
        if not row:
            return 0.0
        with torch.inference_mode():
            logits = self.lm.model(input_ids=torch.tensor([prompt + row])).logits[0, len(prompt) - 1 : -1].float()
        return float(torch.log_softmax(logits, -1)[torch.arange(len(row)), torch.tensor(row)].sum())


class Bytes(RuleBasedStateMachine):
    """Contexts of a byte model, against contexts of their own for each text, opened anew."""

    @initialize(beam=st.sampled_from([None, 64]))
    def open(self, beam: int | None) -> None:
        self.model = fk.bytewise(_lm("a", "b", "ab", "aba", "ba"), beam=beam, least=0.0)
        self.prompt = list(self.model.prompt("ab", max_tokens=20).prompts[0].tokens)
        self.store, self.texts = self.model.open([self.prompt], 20), [[]]
        self.check(self.store.start(), self.texts)

    @rule(data=st.data())
    def go_on(self, data: Any) -> None:
        short = [i for i, text in enumerate(self.texts) if len(text) < 7] or [0]
        child = st.tuples(st.sampled_from(short), st.sampled_from([*b"ab", -1]))
        children = data.draw(st.lists(child, min_size=1, max_size=4, unique=True))
        parents, new = np.array([i for i, _ in children]), np.array([byte for _, byte in children])
        logits = self.store.extend(parents, new)
        self.texts = [self.texts[i] + ([byte] if byte >= 0 else []) for i, byte in children]
        self.check(logits, [text for text, byte in zip(self.texts, new, strict=True) if byte >= 0])

    def check(self, logits: torch.Tensor, texts: list[list[int]]) -> None:
        for row, text in zip(logits, texts, strict=True):
            alone = self.model.open([self.prompt], 20)
            wanted = alone.start()
            for byte in text:
                wanted = alone.extend(np.array([0]), np.array([byte]))
            torch.testing.assert_close(row.exp(), wanted[0].exp(), atol=1e-5, rtol=1e-4)


_makers: dict[str, Any] = {}


@functools.cache
def _lm(*tokens: str) -> Any:
    return _makers["lm"](*(tokens or ("a", "b", "e")), seed=2)


MACHINES = {each.__name__: each for each in (Stores, Remembering, Populations, Bytes)}


@pytest.mark.parametrize("name", MACHINES)
def test_whatever_came_before_each_text_has_the_law_of_a_pass_by_itself(name, tiny_lm) -> None:
    _makers["lm"] = tiny_lm
    run_state_machine_as_test(MACHINES[name], settings=quickly())


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_longer_walks_in_random_order(name, tiny_lm) -> None:
    _makers["lm"] = tiny_lm
    run_state_machine_as_test(MACHINES[name], settings=thoroughly())
