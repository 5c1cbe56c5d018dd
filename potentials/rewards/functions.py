"""Any function of the sample as a potential: `constraint` for bool, `reward` for numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from feynkac.base.arguments import suggest_names
from feynkac.base.errors import ArgumentError
from feynkac.base.numbers import read_flag
from feynkac.potentials.base import Factor, set_function_reader
from feynkac.potentials.rewards.boundaries import Every, read_every
from feynkac.potentials.rewards.calling import OnError
from feynkac.potentials.rewards.classifiers import Head, Reads, is_of_transformers, read_classifier
from feynkac.potentials.rewards.folds import Kind, check_kind
from feynkac.potentials.rewards.samples import (
    SampleFactor,
    check_scale,
    decode_constraint,
    decode_plain,
    decode_reward,
    make_scorer,
)
from feynkac.potentials.rewards.signatures import name_function
from feynkac.potentials.rewards.texts import PlainText, TextFactor
from feynkac.potentials.rewards.values import read_bool, read_number, read_number_or_bool


def read_function(f: Callable[[Any], Any]) -> Factor:
    """A plain function given where a potential is expected: bool constrains whole samples, a number is in nats."""
    if is_of_transformers(f):
        return reward(f)
    scorer = make_scorer(f, "", read_number_or_bool)
    return SampleFactor(PlainText(scorer), partial(decode_plain, scorer))


set_function_reader(read_function)


@suggest_names()
def constraint(
    f: Callable[..., Any],
    every: Every = "end",
    batch: bool = False,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    on_error: OnError = "raise",
    retries: int | None = None,
) -> SampleFactor:
    """The samples for which f is True: f of a text, or of a decoded sample such as an image (C, H, W) from 0 to 1.

    By default f is asked about whole samples only, and any f will do. With any other `every` (see `reward`) you
    promise more: that once f is False of a text, or of the image expected, it stays so in every continuation. Particles
    then die early. With `batch`, f takes all samples at once, as in `reward`, and returns as many bools. f may be
    async, slow and remote, and may be told its problem, as in `reward`.

    Raises ArgumentError for an f as `reward` does; PotentialError, when it is used, if f raises or returns anything but
    a bool.
    """
    if is_of_transformers(f):
        raise ArgumentError(
            f"constraint({type(f).__name__}): a model gives numbers; use reward, or a function that compares them"
        )
    scorer = make_scorer(
        f, "constraint", read_bool, batch, workers=workers, timeout=timeout, on_error=on_error, retries=retries
    )
    every = read_every(every, "constraint")
    on_decoded = partial(decode_constraint, scorer, every)
    # "sum", so that no boundary may be passed over
    return SampleFactor(TextFactor(scorer, every=every, kind="sum", scale=1.0), on_decoded, hard=True)


@suggest_names()
def reward(
    f: Callable[..., Any],
    scale: float = 1.0,
    kind: Kind = "difference",
    every: Every = "token",
    batch: bool = False,
    *,
    workers: int | None = None,
    timeout: float | None = None,
    on_error: OnError = "raise",
    retries: int | None = None,
    tokenizer: Any = None,
    label: str | int | None = None,
    score: Head | None = None,
    reads: Reads | None = None,
) -> Factor:
    """Weight samples by exp(scale * f(sample)), f(sample) being a number (True counts 1, False 0).

    A sample is a text, or what a diffusion model decodes: a tensor, such as an image (C, H, W) from 0 to 1. With
    `batch`, f takes all at once, a list of texts or a tensor (R, C, H, W), and returns as many numbers. Each distinct
    text is scored once a step. Where f is made of torch operations, guided proposals can follow its gradient.

    That is the target for every `kind`; the kind sets what is foreseen for unfinished samples (Singhal et al. 2025,
    "A general framework for inference-time scaling and steering of diffusion models"). With r_s the score at
    boundary s, the level is scale * r_t ("difference"), scale * max r_s ("max") or scale * sum r_s ("sum") over
    the boundaries so far. Boundaries are each step of the model (`every="token"`), every so many steps (a number), when
    so many have been taken (several, such as range(20, 81, 20)), or the ends of complete words or sentences of a text,
    where f sees the text up to that end; of an unfinished image it sees the clean image expected. A separator without
    letters ("\\n\\n"), a compiled pattern or a function of the text makes boundaries of your own. Between boundaries
    the last level stays, and before the first it is 0, which has no part in the maximum. With every="end" f sees whole
    samples only.

    Returning -inf kills a particle (whatever the scale): before the end, do so only if no continuation has weight.
    A number is one of Python, numpy or torch, a Decimal, anything that `float` takes, or an array or tensor with one
    entry; a batch may be (R, 1).

    **The problem.** f(text, problem), with a second parameter of this name (f(texts, problems) with `batch`), is told
    which problem of a batch it scores: `problem.index`, `problem.prompt`, `problem.chat` (`feynkac.Problem`).

    **Slow functions.** An `async def` is awaited, `workers` calls at once (16), on an event loop of our own. Any other
    f runs in so many threads if `workers` is given. A call may take `timeout` seconds, and is made again up to
    `retries` times if it raises or takes longer, after 1, 2, 4, ... seconds. If it fails for good, `on_error` says what
    then: "raise", also "retry" (the same, with 3 retries), or "kill", which gives the particle weight 0: that is
    another target, and the result warns of it. A thread that takes too long cannot be stopped, and is left alone.

    **Models of transformers.** f may be a text-classification pipeline, or a model for sequence classification with its
    `tokenizer`, both in evaluation mode. Then r is the log-probability of `label` (score="log_prob", by softmax, or by
    a sigmoid where labels do not exclude each other) or its logit (score="logit"); of a model with one output, as
    reward models are, the logit. `reads` says what of: "text" is the text alone, "pair" prompt and text as a pair,
    "chat" the conversation by the tokenizer's template, which is the default for one output where there is a template.
    No text is cut unless the pipeline was made with truncation=True.

    Raises ArgumentError for an f that is an async generator, takes other arguments, or is a model that does not score
    texts or has no such label; PotentialError, when it is used, if f raises or returns NaN, +inf or no number.
    """
    check_kind(kind)
    check_scale(scale)
    every, scale, batch = read_every(every, "reward"), float(scale), read_flag("reward: batch", batch)
    slow = {"workers": workers, "timeout": timeout, "on_error": on_error, "retries": retries}
    of_models = {"tokenizer": tokenizer, "label": label, "score": score, "reads": reads}
    if is_of_transformers(f, tokenizer):
        if batch or slow != _NOT_SLOW:
            names = ", ".join(("batch", *slow))
            raise ArgumentError(f"reward: a model is asked about all texts at once; leave {names} out")
        return TextFactor(read_classifier(f, **of_models), every=every, kind=kind, scale=scale)
    if any(given is not None for given in of_models.values()):
        raise ArgumentError(
            f"reward({name_function('', f)}): {', '.join(of_models)} are for models of transformers, and this is none; "
            "leave them out"
        )
    scorer = make_scorer(f, "reward", read_number, batch, **slow)
    on_decoded = partial(decode_reward, scorer, scale, kind, every)
    return SampleFactor(TextFactor(scorer, every=every, kind=kind, scale=scale), on_decoded)


_NOT_SLOW = {"workers": None, "timeout": None, "on_error": "raise", "retries": None}
