"""Small runs of every kind, each made anew by a call: the arguments of `steer`, and its options."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

import feynkac as fk
from feynkac.base.vocabulary import Vocabulary
from feynkac.models import diffusion as fd
from feynkac.models.discrete.analytic import ChainDenoiser
from feynkac.models.discrete.kernels import MaskedNoise, UniformNoise
from feynkac.models.discrete.model import DiscreteDiffusion
from feynkac.models.discrete.proposals import LocallyOptimal
from feynkac.potentials.discrete import Lookahead
from feynkac.potentials.tempering import tempered

STEPS = 20
"""Tokens of a text, or steps of a sampler, at most."""
_tiny_lm: Any = None
LETTERS = ("a", "b", "c", "1", "2", "[", "]", ",", " ", ".", '"', "{", "}", ":")


def set_tiny_lm(make: Any) -> None:
    """Say how language models are made."""
    global _tiny_lm
    _tiny_lm = make


class Case(NamedTuple):
    """A run."""

    make: Callable[[], tuple[Any, ...]]
    options: dict[str, Any]


def _lm(seed: int = 0) -> fk.CausalLM:
    return _tiny_lm(*LETTERS, seed=seed)


def _task(seed: int = 0, **options: Any) -> Any:
    return _lm(seed).prompt("a", **{"max_tokens": STEPS, **options})


def count_a(text: str) -> float:
    return 0.3 * text.count("a") - 0.2 * text.count("b")


def has_few_b(text: str) -> bool:
    return text.count("b") < 4


# --- prompts ---------------------------------------------------------------------------------------------------------


def with_regex() -> tuple[Any, ...]:
    return _task(), fk.regex(r"([abc]|1 )*\.?"), fk.reward(count_a, every=" ", kind="max", scale=2.0)


def with_json() -> tuple[Any, ...]:
    schema = {"type": "array", "items": {"enum": [1, 2, 12]}, "maxItems": 6}
    return _task(1, at_limit="end"), fk.json_schema(schema), fk.reward(lambda text: 0.1 * len(text))


def with_choices() -> tuple[Any, ...]:
    return _task(2), fk.choices(["abcabc", "abba", "a1b2c", "cc,cc", "[a]", "bbbbbbb"]), count_a


def with_lazy() -> tuple[Any, ...]:
    return _task(3), fk.lazy(has_few_b), fk.process_reward(count_a, every=".", total="sum")


def with_power() -> tuple[Any, ...]:
    return _task(4, temperature=0.8, top_k=6, repetition_penalty=1.1), fk.power(2.0, 8), fk.regex("[abc12]*")


def with_problems() -> tuple[Any, ...]:
    lm = _lm(5)
    shared = fk.reward(count_a, every="word")
    return [
        (lm.prompt("a", max_tokens=6), fk.regex("[ab]*"), shared),
        (lm.prompt("bb1", max_tokens=STEPS, stop="."), fk.reward(count_a, kind="sum"), shared),
        (lm.prompt("[", max_tokens=12), fk.choices(["1,2]", "2,2]", "a]"])),
    ], fk.constraint(lambda text: text.count("c") < 9)


def with_long_texts() -> tuple[Any, ...]:
    """So long that what all have in common moves behind the prompt."""
    lm = _tiny_lm("a", "b", seed=6, eos=())
    return lm.prompt("ab", max_tokens=60), fk.reward(lambda text: 2.0 * (text[-1:] == "a"))


def with_experts() -> tuple[Any, ...]:
    lm, other = _lm(10), _lm(11)
    pair = fk.expert(lm.prompt("b", top_k=9)) * fk.expert(other.prompt("c"), power=-0.3)
    return lm.prompt("a", max_tokens=STEPS), pair, fk.regex("[abc12 ]*")


def with_draft() -> tuple[Any, ...]:
    lm, other = _lm(12), _lm(13)
    one = lm.prompt("a", max_tokens=STEPS, proposal=other.prompt("b", temperature=1.2))
    return [one, lm.prompt("c", max_tokens=9)], fk.reward(count_a)


def with_ensemble() -> tuple[Any, ...]:
    lm, other = _lm(14), _lm(15)
    both = fk.ensemble([lm.prompt("a", max_tokens=STEPS), other.prompt("bb"), lm.prompt("c")], [0.5, 0.3, 0.2])
    return both, fk.reward(count_a)


def with_bytes() -> tuple[Any, ...]:
    lm = _tiny_lm("a", "b", "ab", "ba", "bb1", "1", seed=16)
    return fk.bytewise(lm, beam=6).prompt("ab", max_tokens=STEPS), fk.reward(count_a), fk.regex("[ab1]*")


def with_own_cache(kind: str) -> tuple[Any, ...]:
    """A model that keeps a cache of its own."""
    import transformers

    tokenizer = _lm().tokenizer
    size = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "eos_token_id": None}
    heads = {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config: Any = (
        transformers.MambaConfig(**size, state_size=4, use_mambapy=False, pad_token_id=0, bos_token_id=0)
        if kind == "recurrent"
        else transformers.MistralConfig(**size, **heads, sliding_window=6, pad_token_id=None, bos_token_id=None)
    )
    with torch.random.fork_rng():
        torch.manual_seed(17)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return fk.CausalLM(model, tokenizer, eos=(0,)).prompt("ab", max_tokens=STEPS), fk.reward(count_a)


def with_few_ends() -> tuple[Any, ...]:
    return _task(19, at_limit="end"), fk.reward(count_a, every=" ")


def with_hard_prefix() -> tuple[Any, ...]:
    return _task(20), fk.regex("(abc|a1)[abc12]*"), fk.constraint(lambda text: text.count("a") % 4 == 1)


def stay(t: int, state: Any, level: Any, alive: Any, rng: Any) -> Any:
    """A move of one's own, which draws numbers and changes nothing."""
    rng.uniform(len(alive))
    return state, level


# --- programs --------------------------------------------------------------------------------------------------------


@fk.program
def writing(p, lm):
    text = lm.context("a")
    while not text.ended and len(text) < STEPS:
        token = p.sample(text.next_token())
        p.condition("b" not in token.lower() or len(text) % 2 == 0)
        p.twist(0.1 * str(text).count("c"))
    return str(text)


@fk.program
def spans(p, lm):
    text, second = lm.context("a"), lm.context("bb")
    number = p.sample(text.gen(regex="[12]{1,4}"))
    p.factor(0.2 * len(number))
    text.append(" ")
    other = text.fork()
    word = p.sample(other.gen(choices=["abc", "ab", "ca.b"]))
    p.observe(text.mask(["a", "c"]), True)
    token = p.sample(text.next_token())
    p.factor(0.1 * second.log_prob(word))
    return {"number": number, "word": word, "token": token, "rest": p.sample(text.gen(max_tokens=6))}


@fk.program
def chances(p):
    rng, total = p.rng, 0.0
    for i in range(STEPS):
        kind = p.sample(fk.Categorical({"up": 2, "down": 1}))
        noise = rng.normal()
        level = p.sample(fk.Normal(0.0, 1.0))
        where = p.once(lambda i=i: float(np.random.default_rng(i).uniform()))
        total += level + 0.1 * noise + where if kind == "up" else -level
        p.factor(0.3 * math.tanh(total))
        if total > 6.0:
            return Found(total)
    return Found(total)


class Found:
    """A value that no file can hold."""

    def __init__(self, total: float) -> None:
        self.total = total

    def __repr__(self) -> str:
        return f"Found({self.total!r})"


# --- samplers and canvases -------------------------------------------------------------------------------------------


def _prior() -> fd.GaussianMixture:
    return fd.GaussianMixture([0.7, 0.3], [[-2.0, 1.0], [3.0, 0.0]], 0.5)


def quadratic(x: torch.Tensor) -> torch.Tensor:
    return -((x[..., 0] - 1.0) ** 2)


def with_ddpm(steps: int = STEPS) -> tuple[Any, ...]:
    reward = fk.reward(quadratic, scale=0.5, kind="max", batch=True)
    return fd.DiffusionSampler(_prior(), fd.ddpm(steps), (2,)), tempered(reward, ess=0.7)


def with_guidance() -> tuple[Any, ...]:
    reward = fk.reward(quadratic, scale=0.5, batch=True)
    sampler = fd.DiffusionSampler(_prior(), fd.ddim(STEPS, eta=0.6), (2,), proposal=fd.Guided(reward, strength=0.5))
    return sampler, reward


def with_pipeline(kind: str) -> tuple[Any, ...]:
    """A pipeline of diffusers whose scheduler takes its own steps, or draws what a proposal shifts."""
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(18)
        unet = diffusers.UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
        ).eval()  # fmt: skip
    if kind == "ddpm":
        model = fk.Diffusion.from_pipeline(diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()), steps=8)
    else:
        model = fk.Diffusion.from_pipeline(diffusers.DDIMPipeline(unet, diffusers.DDIMScheduler()), steps=8, eta=1.0)
    reward = fk.reward(lambda image: 40.0 * image.mean(), kind="max")
    return ([model, model], reward) if kind == "two" else (model, reward)


ABC = (b"a", b"b", b"cc", b"")


def _chain(uniform: bool = False) -> ChainDenoiser:
    rng = np.random.default_rng(1)
    return ChainDenoiser(rng.dirichlet(np.ones(4)), rng.dirichlet(np.ones(4), 4), uniform=uniform)


def with_canvas() -> tuple[Any, ...]:
    model = DiscreteDiffusion(_chain(), Vocabulary(ABC, (3,)), 8, MaskedNoise(STEPS, remask=0.3))
    return model, fk.regex("[abc]*"), Lookahead(fk.reward(count_a), samples=2)


def with_uniform_noise() -> tuple[Any, ...]:
    guess = Lookahead(fk.reward(count_a), samples=2, kind="max")
    model = DiscreteDiffusion(_chain(True), Vocabulary(ABC, (3,)), 4, UniformNoise(10))
    return model.with_proposal(LocallyOptimal(fk.reward(count_a))), guess


PROMPTS = {
    "regex and a fold": Case(with_regex, {"islands": 2}),
    "json": Case(with_json, {}),
    "choices": Case(with_choices, {}),
    "lazy": Case(with_lazy, {"resampler": "systematic"}),
    "power": Case(with_power, {"ess_threshold": 0.9}),
    "problems": Case(with_problems, {}),
    "long texts": Case(with_long_texts, {"ess_threshold": 1.0, "particles": 8}),
    "experts": Case(with_experts, {}),
    "experts of whole texts": Case(with_experts, {"algorithm": "best_of_n"}),
    "draft": Case(with_draft, {}),
    "ensemble": Case(with_ensemble, {}),
    "bytes": Case(with_bytes, {"particles": 8}),
    "recurrent": Case(lambda: with_own_cache("recurrent"), {"ess_threshold": 0.9}),
    "sliding window": Case(lambda: with_own_cache("sliding"), {"ess_threshold": 0.9}),
    "optimal": Case(with_regex, {"algorithm": "optimal", "islands": 2}),
    "beam": Case(with_regex, {"algorithm": "beam"}),
    "importance": Case(with_json, {"algorithm": "importance"}),
    "best of n": Case(with_choices, {"algorithm": "best_of_n"}),
}
MOVED = {
    "blocks drawn anew": Case(with_problems, {"moves": fk.redraw(2, every=6), "islands": 2}),
    "blocks drawn anew before a tail": Case(with_few_ends, {"moves": fk.redraw(3, tail=2, every=7), "particles": 8}),
    "chains of moves": Case(with_choices, {"moves": fk.redraw(3, chains=4), "particles": 8}),
    "chains of moves of one's own": Case(
        with_choices, {"moves": fk.rejuvenate(stay, every=2, chains=4), "particles": 8}
    ),
}
"""Runs with moves."""
PROGRAMS = {
    "tokens": Case(lambda: (writing(_lm(7)),), {}),
    "spans": Case(lambda: (spans(_lm(8)), fk.reward(lambda value: 0.1 * len(str(value)))), {"ess_threshold": 1.0}),
    "chances": Case(lambda: (chances(),), {"ess_threshold": 1.0}),
    "two programs": Case(lambda: ([writing(lm), spans(lm)] if (lm := _lm(9)) else [],), {}),
}
SAMPLERS = {
    "ddpm": Case(with_ddpm, {}),
    "guided ddim": Case(with_guidance, {}),
    "pipeline": Case(lambda: with_pipeline("ddim"), {"ess_threshold": 0.9}),
    "pipeline of ddpm": Case(lambda: with_pipeline("ddpm"), {"particles": 8}),
    "pipeline for two": Case(lambda: with_pipeline("two"), {"particles": 4}),
    "pipeline that runs whole": Case(lambda: with_pipeline("ddpm"), {"algorithm": "best_of_n", "particles": 4}),
    "canvas": Case(with_canvas, {}),
    "uniform noise": Case(with_uniform_noise, {"ess_threshold": 1.0}),
}
GIBBS = {
    "prompts": Case(with_regex, {"islands": 2}),
    "problems": Case(with_problems, {}),
    "chains of which some die": Case(with_hard_prefix, {"islands": 4}),
    "a sampler": Case(with_ddpm, {}),
    "a canvas": Case(with_canvas, {}),
    "a pipeline": Case(lambda: with_pipeline("ddim"), {"particles": 4}),
}
"""Runs of particle Gibbs."""
CASES = PROMPTS | MOVED | PROGRAMS | SAMPLERS
