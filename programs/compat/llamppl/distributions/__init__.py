"""Distributions: `await dist.sample()` gives a value and its log-probability, `await dist.log_prob(x)` scores one."""

from feynkac.programs.compat.llamppl.distributions.bernoulli import Bernoulli
from feynkac.programs.compat.llamppl.distributions.distribution import Distribution
from feynkac.programs.compat.llamppl.distributions.geometric import Geometric
from feynkac.programs.compat.llamppl.distributions.lmcontext import LMContext
from feynkac.programs.compat.llamppl.distributions.logcategorical import LogCategorical
from feynkac.programs.compat.llamppl.distributions.tokencategorical import TokenCategorical
from feynkac.programs.compat.llamppl.distributions.transformer import Transformer

__all__ = [
    "Bernoulli",
    "Distribution",
    "Geometric",
    "LMContext",
    "LogCategorical",
    "TokenCategorical",
    "Transformer",
]
