"""Pages of runs of every algorithm: the tree that the page has leads to the texts that the result has."""

from __future__ import annotations

import base64

import numpy as np
import pytest

import feynkac as fk
from feynkac.results.pages.telling import tell_result

RUNS = {
    "smc": {},
    "islands": {"islands": 2},
    "importance": {"algorithm": "importance"},
    "best of n": {"algorithm": "best_of_n"},
    "beam": {"algorithm": "beam"},
    "optimal": {"algorithm": "optimal"},
    "gibbs": {"algorithm": "gibbs", "sweeps": 4},
    "chains of gibbs": {"algorithm": "gibbs", "sweeps": 3, "islands": 2},
}


def unpack(packed: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed["data"]), dtype=f"<{packed['kind']}")


def walk(told: dict, population: dict) -> list[str]:
    """The text at the end of each line of a population, from what the page is told alone."""
    starts = np.cumsum([0, *unpack(told["sizes"]).tolist()]).tolist()
    parents = dict(zip(unpack(told["changed"]).tolist(), unpack(told["parents"]).tolist(), strict=True))
    which, words = unpack(told["pieces"]["which"]), told["pieces"]["words"]
    texts: list[str] = []
    for t in range(population["start"], population["end"]):
        nodes = range(starts[t], starts[t + 1])
        before = [texts[parents.get(node, node - starts[t])] for node in nodes] if t > population["start"] else None
        texts = [(before[i] if before else "") + words[which[node]] for i, node in enumerate(nodes)]
    return texts


@pytest.mark.parametrize("name", RUNS)
def test_the_lines_of_the_tree_lead_to_the_samples(tiny_lm, tmp_path, name) -> None:
    task = tiny_lm().prompt(tokens=[1], max_tokens=6)
    reward = fk.reward(lambda text: 2.0 * text.count("a"), every="token")
    made = fk.steer(task, reward, particles=8, seed=3, **RUNS[name])
    made.to_html(tmp_path / "page.html")
    told = tell_result(made, None)
    samples = [told["samples"][i]["text"] for i in unpack(told["sample_of"])]
    known = [each for each in told["populations"] if each["first_row"] is not None]
    assert sum(len(made.history.rows[each["end"] - 1]) for each in known) == len(samples)
    for each in known:
        texts = walk(told, each)
        assert texts == samples[each["first_row"] : each["first_row"] + len(texts)]


def test_a_run_with_moves_tells_the_tokens_of_its_samples(tiny_lm) -> None:
    task = tiny_lm().prompt(tokens=[1], max_tokens=6)
    reward = fk.reward(lambda text: 2.0 * text.count("a"), every="token")
    made = fk.steer(task, reward, particles=8, seed=3, moves=fk.redraw(2))
    told = tell_result(made, None)
    assert any(made.history.moved)
    lengths, texts = unpack(told["tokens"]["lengths"]), told["tokens"]["texts"]
    words = iter([texts["words"][i] for i in unpack(texts["which"])])
    assert ["".join(next(words) for _ in range(length)) for length in lengths] == made.samples
    np.testing.assert_allclose(unpack(told["totals"]), made.log_probs)


def test_a_run_that_lists_all_texts_has_a_page(tiny_lm, tmp_path) -> None:
    task = tiny_lm().prompt(tokens=[1], max_tokens=3)
    made = fk.steer(task, fk.choices(["a", "ab"]), algorithm="exact")
    made.to_html(tmp_path / "page.html")
    assert {each["text"] for each in tell_result(made, None)["samples"]} == {"a", "ab"}


def test_a_run_of_a_program_has_a_page(tiny_lm, tmp_path) -> None:
    @fk.program
    def two(p, lm):
        text = lm.context(tokens=[1])
        return p.sample(text.gen(max_tokens=2)), p.sample(fk.Bernoulli(0.5))

    fk.steer(two(tiny_lm()), particles=4, seed=0).to_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
