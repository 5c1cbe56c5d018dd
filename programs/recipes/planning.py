"""A dialogue whose moves a small planner chooses, and the planner learnt from rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.lists import as_sequence
from feynkac.base.numbers import read_count, read_share, read_whole
from feynkac.programs.distributions import Categorical
from feynkac.programs.particle import Particle
from feynkac.programs.program import Program, program
from feynkac.programs.recipes.asking import read_texts
from feynkac.smc.checks import call
from feynkac.steering.steer import steer

if TYPE_CHECKING:
    from feynkac.models.language.lm import CausalLM


@program
def converse(
    p: Particle,
    lm: CausalLM,
    persona: str,
    opening: str,
    actions: Sequence[str],
    policy: Sequence[Sequence[float]],
    reward: Callable[[str], float],
    scale: float = 1.0,
    turn_tokens: int = 16,
) -> tuple[tuple[int, ...], str]:
    """(The numbers of the actions taken, the dialogue), of as many turns as `policy` has rows.

        actions = ["I am sorry to hear that.", "Have you tried", "Tell me more:"]
        def lively(dialogue):
            return float(dialogue.count("!"))
        task = converse(lm, "You are tired, and talk to a friend.", "I slept badly.", actions, [[0.0] * 3] * 2, lively)
        feynkac.steer(task, particles=16, seed=0).show()

    `policy`: (T, A) logits. In each of T turns an action, the beginning of the next reply, is drawn by its row; `lm`
    ends the sentence, and answers in the role of `persona`, who said the `opening`. `reward` scores the whole dialogue.

    Exact: the target is this joint law times exp(scale * reward(dialogue)). The posterior of the actions is what
    `fit_policy` learns from. After dialogue action tokens (Li et al. 2024), whose planner chooses soft prefixes by
    reinforcement learning; here prefixes are texts.
    """
    actions = read_texts("actions", actions)
    said = [opening]
    taken = list[int]()
    for row in policy:
        taken.append(p.sample(Categorical(logits=row)))
        agent = lm.context(chat=_write_roles(said, "user"))
        agent.append(actions[taken[-1]])
        p.sample(agent.gen(unit="sentence", max_tokens=turn_tokens))
        said.append(str(agent))
        partner = lm.context(chat=[{"role": "user", "content": persona}, *_write_roles(said, "assistant")])
        said.append(p.sample(partner.gen(unit="sentence", max_tokens=turn_tokens)))
    p.factor(scale * p.once(reward, dialogue := "\n".join(said)))
    return tuple(taken), dialogue


def fit_policy(
    make: Callable[[list[list[float]]], Program],
    shape: tuple[int, int],
    rounds: int = 5,
    explore: float = 0.1,
    **options: Any,
) -> tuple[NDArray[np.float64], list[float]]:
    """(T, A) logits of a policy that earns more reward, and the log evidence of each round, in nats.

        policy, evidence = fit_policy(lambda logits: converse(lm, persona, opening, actions, logits, reward), (2, 3))

    The cross-entropy method (Rubinstein 1999) with the weights exp(reward) in the place of an elite: each round draws
    by the policy and makes it the posterior frequencies of the actions, turn by turn, with a share `explore` spread
    evenly. Without this share, and without noise, it is the EM algorithm for the log evidence log E[exp(reward)], which
    therefore never falls.

    `make`: the program under a policy, such as `converse`, whose samples begin with the actions. `shape`: T turns and A
    actions. `options` are those of `feynkac.steer`; round r has the seed `seed` + r. Raises ArgumentError for numbers
    out of range.
    """
    if not callable(make):
        raise ArgumentError(f"fit_policy({quote(make)}): give a function of logits that returns a program")
    sizes = as_sequence(shape)
    if sizes is None or len(sizes) != 2:
        raise ArgumentError(f"fit_policy(shape={quote(shape)}): give turns and actions, such as (2, 3)")
    turns, actions = (read_count("shape", size) for size in sizes)
    explore = read_share("fit_policy: explore", explore)
    seed = read_whole("seed", options.pop("seed", 0), 0)
    policy, evidence = np.zeros((turns, actions)), list[float]()
    for r in range(read_count("rounds", rounds)):
        result = steer(call(make, policy.tolist(), of=make, error=ArgumentError), seed=seed + r, **options)
        shares = count_actions([taken for taken, *_ in result.samples], result.weights, (turns, actions))
        with np.errstate(divide="ignore"):
            policy = np.log((1.0 - explore) * shares + explore / actions)
        evidence.append(result.log_evidence)
    return policy, evidence


def count_actions(
    paths: Sequence[Sequence[int]], weights: NDArray[np.float64], shape: tuple[int, int]
) -> NDArray[np.float64]:
    """(T, A) the share of each action in each turn of K `paths`, (K, T), by their `weights`, (K,), which sum to 1."""
    shares = np.zeros(shape)
    for path, weight in zip(paths, weights, strict=True):
        shares[np.arange(shape[0]), list(path)] += weight
    return shares


def _write_roles(said: Sequence[str], first: str) -> list[dict[str, str]]:
    """What two speakers said in turn as messages, the role of the first one `first`."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": content.strip()} for i, content in enumerate(said)]
