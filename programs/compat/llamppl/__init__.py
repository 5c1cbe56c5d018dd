"""The public names of LLaMPPL 0.2.3, on the engine, the cache and the resamplers of feynkac.

    from feynkac.programs.compat.llamppl import CachedCausalLM, LMContext, Model, smc_standard

in place of `from llamppl import ...`; a program needs no other change. All that waits for logits is served in one
forward pass a model, a history that several particles share is forwarded once, and nothing is forwarded eagerly.

Where LLaMPPL is wrong, this is not:

- `smc_steer` finds the threshold of Fearnhead and Clifford (2003) by its definition, so that it is unbiased also where
  weights are equal or too light to be seen beside the heaviest; finished particles take no more places than they need.
- `Transformer` and `LMContext` normalise after dividing by the temperature.
- `sample_word_2(max_chars=)` runs; the white space before a word is not one of its characters.
- A mask that rules out every token has probability zero: the particle dies. So does one with NullMask in LLaMPPL, but
  with the whole run. A dead particle is not run any further, and a run whose particles all died ends.
- A twist of -inf kills the particle instead of turning its weight into NaN; what is twisted after `finish` is undone.
- A token reads as `lm.str_vocab` has it, not as the tokenizer's internal spelling ("Ġthe").
- The last population is never resampled, and a run repeats itself: `smc_standard(..., seed=)`, or `numpy.random.seed`.

Between two steps no coroutine of a model is alive, so that a copy of the model is an exact fork, as in LLaMPPL.
"""

from feynkac.programs.compat.llamppl.chunks import sample_word, sample_word_2
from feynkac.programs.compat.llamppl.distributions import (
    Bernoulli,
    Distribution,
    Geometric,
    LMContext,
    LogCategorical,
    TokenCategorical,
    Transformer,
)
from feynkac.programs.compat.llamppl.inference import Particles, smc_standard, smc_steer
from feynkac.programs.compat.llamppl.llms import CachedCausalLM, Masks, Token, TokenSequence
from feynkac.programs.compat.llamppl.modeling import Model, SubModel, submodel
from feynkac.programs.compat.llamppl.util import log_softmax, logsumexp, softmax

__all__ = [
    "Bernoulli",
    "CachedCausalLM",
    "Distribution",
    "Geometric",
    "LMContext",
    "LogCategorical",
    "Masks",
    "Model",
    "Particles",
    "SubModel",
    "Token",
    "TokenCategorical",
    "TokenSequence",
    "Transformer",
    "log_softmax",
    "logsumexp",
    "sample_word",
    "sample_word_2",
    "smc_standard",
    "smc_steer",
    "softmax",
    "submodel",
]
