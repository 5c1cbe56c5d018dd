"""Weighted samples, and what can be asked of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import AllParticlesDied, ArgumentError
from feynkac.base.numbers import read_particles, read_seed
from feynkac.results.ranking import find_top, make_posterior, rank_samples
from feynkac.results.text import write_sample
from feynkac.smc.weights import effective_sample_size, normalise


class Weighted:
    """Particles with log-weights."""

    log_weights: NDArray[np.float64]
    """(N,) absolute log-weights in nats."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """(N,) normalised weights; all zero if every particle died."""
        return normalise(self.log_weights)

    @property
    def ess(self) -> float:
        """Effective sample size of the samples, in particles; for particle Gibbs as if its sweeps were independent."""
        return effective_sample_size(self.log_weights)


class Posterior(Weighted):
    """Weighted samples of a target; the fields stand in `Result`."""

    samples: list[Any]
    log_evidence: float
    algorithm: str
    reader: Callable[[str], Any] | None

    @property
    def texts(self) -> list[str]:
        """The samples as text."""
        return [write_sample(sample) for sample in self.samples]

    @property
    def best(self) -> Any:
        """The most probable sample of the posterior, equal samples taken together.

        Of "best_of_n" it is the sample with the largest log-weight, hence reward, however rare; of equals (within
        `ranking.TIE`) the one that was drawn most often. Raises AllParticlesDied.
        """
        self._check_alive()
        if self.algorithm != "best_of_n":
            return self._rank()[0][0]
        return find_top(self.samples, self.log_weights)

    def posterior(self) -> Mapping[Any, float]:
        """Each distinct sample with its probability, the likeliest first.

        A dict, or where samples have no hash (lists, dicts), or are as good as equal (1, True and 1.0), a mapping that
        is looked up in the same way.
        """
        return make_posterior(self._rank())

    def _rank(self) -> list[tuple[Any, float]]:
        return rank_samples(self.samples, self.weights)

    @overload
    def sample(self, k: None = None, *, seed: int | None = None) -> Any: ...
    @overload
    def sample(self, k: int, *, seed: int | None = None) -> list[Any]: ...
    @suggest_names()
    def sample(self, k: int | None = None, *, seed: int | None = None) -> Any:
        """One draw from the weighted samples, or a list of `k`. Raises AllParticlesDied."""
        self._check_alive()
        count = 1 if k is None else read_particles("sample: k", k, 0)
        rng = np.random.default_rng(read_seed("sample: seed", seed))
        drawn = rng.choice(len(self.samples), size=count, p=self.weights)
        return self.samples[drawn[0]] if k is None else [self.samples[i] for i in drawn]

    def parsed(self) -> list[Any]:
        """(N,) the values that the samples stand for, None where a particle has no weight.

        They are instances where the constraint was `json_schema` of a Python type, and else what `json.loads` gives.
        Raises ArgumentError for a sample that is no JSON.
        """
        read = self.reader or json.loads
        try:
            return [read(x) if w > 0.0 else None for x, w in zip(self.samples, self.weights, strict=True)]
        except (TypeError, ValueError) as cause:
            raise ArgumentError(f"a sample cannot be read: {cause}; was json_schema(...) a constraint?") from cause

    @overload
    def expectation(self, f: Callable[[Any], float]) -> float: ...
    @overload
    def expectation(self, f: Callable[[Any], Any]) -> Any: ...
    def expectation(self, f: Callable[[Any], Any]) -> Any:
        """The posterior mean of `f(sample)`, a number or an array.

        Raises AllParticlesDied, and ArgumentError, with the cause, where f raises or gives what has no mean.
        """
        self._check_alive()
        try:
            return sum(w * np.asarray(f(x)) for x, w in zip(self.samples, self.weights, strict=True) if w > 0.0)
        except Exception as cause:
            raise ArgumentError(
                f"expectation: {type(cause).__name__}: {cause}; give a function of one sample that returns a number, "
                "or arrays of one shape"
            ) from cause

    def _check_alive(self) -> None:
        if self.log_evidence == -math.inf:
            raise AllParticlesDied("every particle died, so that there is no posterior; see result.warnings")
