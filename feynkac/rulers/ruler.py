"""`fk.ruler`: every law draws its texts, and both it and the base say how probable they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import is_hard
from feynkac.base.contract import Potential
from feynkac.base.errors import AllParticlesDied, ArgumentError, FeynkacError, quote
from feynkac.base.host import check_not_forked
from feynkac.base.lists import as_dict
from feynkac.base.numbers import read_flag, read_whole
from feynkac.potentials.base import Factor, product
from feynkac.potentials.rewards.functions import reward as read_function
from feynkac.rulers.describing import describe
from feynkac.rulers.drawing import draw, score
from feynkac.rulers.frontier import Frontier
from feynkac.rulers.laws import BASE, Law, check_comparable, read_base, read_law, tell_name
from feynkac.rulers.measured import Measured, Ruler, make_dead
from feynkac.smc.checks import name_of
from feynkac.smc.progress import make_bar
from feynkac.smc.rng import Streams


@suggest_names()
def ruler(
    base: Any,
    laws: Mapping[Any, Any],
    reward: Any,
    *,
    texts: int = 200,
    seed: int | None = 0,
    progress: bool | None = None,
) -> Ruler:
    """What each law of texts gains in reward, and what it pays in nats, beside the least that it could pay.

        cold = {t: lm.prompt(question, temperature=t) for t in (0.9, 0.7, 0.5)}
        ruler = fk.ruler(lm.prompt(question), cold, lambda text: text.count("rain"))
        print(ruler.table())
        ruler.best(kl=2.0)                       # the temperature with the largest reward within two nats

    - `base`: a prompt. All laws are compared with it.
    - `laws`: by names of any kind, prompts with the base's vocabulary, `max_tokens` and `stop` (other words, another
      temperature, another or an edited model), or tuples (prompt, potential, ...) as in `steer`, whose law is the
      target p(x) exp(potentials(x)) / Z.
    - `reward`: a function of a text, or what `fk.reward` takes, or makes; finite. True counts 1.
    - `texts`: drawn of each law, at least 20; of tuples rounded up to a multiple of ten.
    - `seed`: each law draws by itself, so that more laws behind it change nothing.

    For each law the `Ruler` has the mean reward; KL(law || base) in nats a text, the mean of log(law / base) over the
    very tokens drawn, which law and base read in one pass each; the least KL of any law with this mean reward (see
    `feynkac.rulers.frontier`); the mean negative log-likelihood of a token under the base; the distinct words and pairs
    of words, as shares of all (Li et al. 2016); and the tokens forwarded to draw the texts.

    Prompts are drawn independently. Tuples are SMC runs of ten islands: KL = E[log w] - log Z, with the error of both.
    A law whose particles all die has a row that says so. Ctrl-C ends the measurement and keeps the laws measured; so
    does an error, in its `partial`. Raises ArgumentError for a law of another vocabulary, one that ends its texts
    elsewhere, programs and other models than prompts; PotentialError for a reward that raises or is not finite.
    """
    check_not_forked()
    known, measured = read_base(base), read_laws(laws)
    for law in measured:
        check_comparable(law, known)
    potential, n = read_reward(reward), read_whole("texts", texts, 20)
    meter = Meter(known, potential, n, Streams(seed).seed)
    bar = make_bar(1 + len(measured), shown=None if progress is None else read_flag("progress", progress), unit="law")
    law = known
    try:
        for law in (known, *measured):
            meter.measure(law)
            bar.update()
    except KeyboardInterrupt:
        if not meter.rows:
            raise
    except FeynkacError as error:
        named = type(error)(f"ruler: {tell_name(law.name)}: {error}")
        named.partial, named.step = meter.collect(measured) if meter.rows else None, error.step
        raise named from error
    finally:
        bar.close()
    return meter.collect(measured)


class Meter:
    """Measures one law after the other, the base first."""

    def __init__(self, base: Law, reward: Factor, texts: int, seed: int) -> None:
        self.rows: list[Measured] = []
        self._base, self._reward, self._texts, self._seed = base, reward, texts, seed
        self._frontier: Frontier | None = None

    def measure(self, law: Law) -> None:
        """Draw from `law` and note what came of it. Raises KeyboardInterrupt also where a run was stopped."""
        # Each law has random numbers of its own: errors that are not independent could not be compared.
        seed = int(np.random.SeedSequence((self._seed, len(self.rows))).generate_state(1)[0])
        try:
            drawn = draw(law, self._texts, seed)
        except AllParticlesDied as death:
            self.rows.append(make_dead(law.name, str(death)))
            return
        rewards = score(self._reward, drawn)
        if self._frontier is None:
            self._frontier = Frontier(drawn.sample, rewards)
        self.rows.append(describe(drawn, self._base, rewards, self._frontier, seed))

    def collect(self, laws: Sequence[Law]) -> Ruler:
        """What there is, of the base and of `laws`."""
        assert self._frontier is not None
        missing = [law.name for law in laws[len(self.rows) - 1 :]]
        return Ruler(self.rows[0], self.rows[1:], self._frontier.trace(), self._texts, self._seed, missing)


def read_laws(laws: Any) -> list[Law]:
    """The laws of a mapping. Raises ArgumentError."""
    if not (named := as_dict(laws)):
        raise ArgumentError(f"ruler: laws is {quote(laws)}; give a dict of tasks by name, {{'cold': prompt}}")
    if BASE in named:
        raise ArgumentError(f"ruler: {quote(BASE)} is the name of the base in tables; call the law otherwise")
    return [read_law(name, task) for name, task in named.items()]


def read_reward(reward: Any) -> Factor:
    """What scores texts. Raises ArgumentError for what does not, or only forbids."""
    if isinstance(reward, type) or not (isinstance(reward, Potential) or callable(reward)):
        raise ArgumentError(f"ruler: reward is {quote(reward)}; give a function of a text")
    potential = product(reward) if isinstance(reward, Potential) else product(read_function(reward, every="end"))
    if is_hard(potential):
        raise ArgumentError(
            f"ruler: '{name_of(potential)}' only forbids; give a function of a text, such as "
            "lambda text: float('rain' in text)"
        )
    return potential
