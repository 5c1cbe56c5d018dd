"""Any pipeline of diffusers as a model: it runs by itself, and asks us for the next latents.

One particle is one row of the pipeline's batch. The pipeline keeps nothing else that differs between the particles of a
prompt, and it gets its latents back from its scheduler: to hand over forked latents is all that resampling takes.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.capabilities import Biased
from feynkac.base.contract import LogW, Mask, Rng
from feynkac.base.errors import ArgumentError, ModelError
from feynkac.models.diffusion.decoding import decoder_of
from feynkac.models.diffusion.paths import LatentPath
from feynkac.models.diffusion.pipeline_call import PipelineCall
from feynkac.models.diffusion.pipeline_source import NO_GRADIENT, PipelineSource, Prepared, part_from
from feynkac.models.diffusion.preview import Fit, Preview, preview_of
from feynkac.models.diffusion.proposals import BASE, Proposal, keeps_graph
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.schedulers import schedule_of
from feynkac.models.diffusion.state import Latents

COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")
OURS = (*COUNTS, "num_inference_steps", "generator", "latents", "output_type", "return_dict", "eta")
"""Arguments of a pipeline's call that belong to the run."""


def seed_generators(n: int, rng: Rng) -> list[torch.Generator]:
    """One source of noise for each of `n` slots, keyed by slot; a plain call of the pipeline may be given the same."""
    seeds = (rng.uniform(n) * 2.0**53).astype(np.int64)
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]


@dataclass(frozen=True)
class Diffusion:
    """A pipeline of diffusers as a model of the engine: particles are the images of one batch.

    The law that is steered is that of the pipeline as it is called: prompt, guidance scale, steps, eta and all. Make it
    with `from_pipeline`. Samples, and what rewards see, are tensors (C, H, W) from 0 to 1, and (F, C, H, W) of videos.
    """

    pipe: Any
    steps: int
    eta: float | None = None
    calls: tuple[Mapping[str, Any], ...] = ({},)
    """The arguments of each problem's call."""
    proposal: Proposal = field(default=BASE, kw_only=True)
    decode: Callable[[Tensor], Tensor] | None = field(default=None, kw_only=True)
    preview: Preview = field(default=None, kw_only=True)
    batch: int = field(default=8, kw_only=True)
    _fits: dict[tuple[int, ...], Fit] = field(default_factory=dict, kw_only=True, compare=False, repr=False)

    name = "diffusion pipeline"

    @classmethod
    def from_pipeline(
        cls,
        pipe: Any,
        steps: int = 50,
        eta: float | None = None,
        *,
        proposal: Proposal = BASE,
        decode: Callable[[Tensor], Tensor] | None = None,
        preview: Preview = None,
        batch: int = 8,
    ) -> Diffusion:
        """Steer `pipe`, a pipeline of diffusers, which is neither copied nor changed.

        `eta`: how much noise its sampler adds; needed for flow models, 1 is the default of DDIM. `decode`: latents to
        what rewards see, by default with the pipeline's VAE. It and `preview` get at most `batch` rows at a time.

        `preview`: the same for guesses on the way, which change no target, so that it may be cheap:
        - "linear", the default with a VAE: colours affine in the latent's channels, in full size but as sharp as the
          latents. It costs nothing to speak of, where the VAE takes 0.8 (SDXL) to 1.6 times (SD 1.5) a guided step.
        - "full": `decode`. For rewards of what is fine (text, texture, sharpness), best with `every=` a few steps.
        - A small VAE of the same latents, such as AutoencoderTiny, which takes a tenth of a step of SD 1.5.
        - Any function of latents; with `decode` given, the default is `decode`.

        Raises ModelError for a scheduler that is no one-step kernel, and ArgumentError for one without noise.
        """
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ArgumentError(f"steps={steps!r}; a number of denoising steps, at least 1")
        scheduler = getattr(pipe, "scheduler", None)
        if scheduler is None or not callable(pipe):
            raise ArgumentError(f"{type(pipe).__name__} is no pipeline of diffusers: it has no scheduler")
        _rehearse(scheduler, steps, eta)
        if keeps_graph(proposal):
            raise ArgumentError(NO_GRADIENT)
        preview_of(preview, decoder_of(pipe) if decode is None else decode, decode is None, {})
        return cls(pipe, steps, eta, proposal=proposal, decode=decode, preview=preview, batch=batch)

    @property
    def biased(self) -> bool:
        """Whether the proposal leaves its weights out, so that the samples follow no declared target."""
        return isinstance(self.proposal, Biased) and self.proposal.biased

    @property
    def max_steps(self) -> int:
        """The largest number of steps that a run takes."""
        return self.steps

    def prompt(self, prompt: Any = None, **call: Any) -> Diffusion:
        """The same pipeline called with `prompt`, and with any other argument of its call, such as guidance_scale.

        A list of such models, which differ in their prompts, is steered in one batch: each prompt has its particles,
        weights and resampling. So has each model of a list whose pipeline takes a batch_size and no prompts.
        """
        given = call if prompt is None else {"prompt": prompt, **call}
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        for name in given:
            if name in OURS:
                raise ArgumentError(f"{name} belongs to the run; see steps and eta of from_pipeline, and steer(...)")
            if name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                raise ArgumentError(f"{type(self.pipe).__name__} has no argument {name!r}")
        if isinstance(prompt, list | tuple):
            raise ArgumentError("one prompt at a time; for several, steer a list of models, one for each")
        return replace(self, calls=(given,))

    def join(self, others: Sequence[Any]) -> Diffusion:
        """One model of several prompts in one batch."""
        for other in others:
            if not isinstance(other, Diffusion) or replace(other, calls=self.calls) != self:
                raise ArgumentError("problems run in one batch only if they are prompts of one pipeline")
        return replace(self, calls=(*self.calls, *(call for other in others for call in other.calls)))

    def init(self, n: int, rng: Rng) -> Prepared:
        """`n` particles, of which nothing is drawn: the pipeline does so at the first step, with our generators."""
        sources = seed_generators(n, rng)
        call = PipelineCall(self.pipe, self._arguments(n, sources))
        return Prepared(n, lambda: self._begin(n, rng, call, sources), sources)

    def step(self, t: int, state: Any, rng: Rng) -> tuple[Latents, LogW]:
        """Move every latent to the next level (see `DiffusionSampler.advance`)."""
        state = state.begin() if isinstance(state, Prepared) else state
        return state.sampler.step(t, state, rng)

    def replay(self, t: int, state: Any, rng: Rng, reference: LatentPath) -> tuple[Latents, LogW]:
        """Like `step`, except that row 0 goes from latent to latent of `reference`, a path of the same pipeline."""
        state = state.begin(reference) if isinstance(state, Prepared) else state
        return state.sampler.replay(t, state, rng, reference)

    def trace(self, state: Latents, row: int) -> LatentPath:
        """The path of a `row`."""
        return state.sampler.trace(state, row)

    def done(self, state: Latents) -> Mask:
        """(N,) whether the last level is reached, which all rows do together."""
        return state.sampler.done(state)

    def _begin(self, n: int, rng: Rng, call: PipelineCall, sources: list[torch.Generator]) -> Latents:
        """The particles at the first question of the pipeline."""
        question = call.start()
        if question is None:
            raise ModelError(f"{type(self.pipe).__name__} never calls the step of its scheduler")
        if len(question.x) != n:
            raise ModelError(f"the pipeline made {len(question.x)} latents for {n} particles; give it one prompt")
        decode = self.decode or decoder_of(self.pipe, **{name: self.calls[0].get(name) for name in ("height", "width")})
        sampler = DiffusionSampler(
            PipelineSource(call, len(self.calls), sources, self.eta, self.proposal),
            part_from(schedule_of(call.scheduler, self.eta), float(question.time)),
            tuple(question.x.shape[1:]),
            proposal=self.proposal,
            decode=decode,
            preview=preview_of(self.preview, decode, self.decode is None, self._fits),
            batch=self.batch,
            dtype=question.x.dtype,
            device=question.x.device,
        )
        return sampler.init(n, rng)

    def _arguments(self, n: int, sources: list[torch.Generator]) -> dict[str, Any]:
        name, count = type(self.pipe).__name__, len(self.calls)
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        many = next((each for each in COUNTS if each in parameters), None)
        if many is None or (many == "batch_size" and any(call != self.calls[0] for call in self.calls)):
            raise ModelError(f"{name} cannot make several images of each of {count} prompts in one call")
        if n % count:
            raise ArgumentError(f"{n} particles for {count} prompts; give each the same number")
        arguments = {**_merge(self.calls), "num_inference_steps": self.steps, "generator": sources}
        arguments[many] = n if many == "batch_size" else n // count
        output = "pt" if getattr(self.pipe, "vae", None) is None else "latent"  # the least work at its end
        return arguments | ({"output_type": output} if "output_type" in parameters else {})


def _rehearse(scheduler: Any, steps: int, eta: float | None) -> None:
    """Refuse what cannot be steered before anything runs."""
    trial = copy.deepcopy(scheduler)
    shifted = getattr(trial.config, "use_dynamic_shifting", False)
    trial.set_timesteps(steps, **({"mu": 1.0} if shifted else {}))
    schedule_of(trial, eta)


def _merge(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of one call for all problems: prompts become lists, all else must be the same."""
    if len(calls) == 1:
        return dict(calls[0])
    if any(call.keys() != calls[0].keys() for call in calls):
        raise ArgumentError("prompts that run in one batch need the same arguments")
    merged: dict[str, Any] = {}
    for name in calls[0]:
        values = [call[name] for call in calls]
        if all(isinstance(value, str) for value in values):
            merged[name] = values
        elif all(isinstance(value, Tensor) for value in values) and "embeds" in name:
            merged[name] = torch.cat(values)
        elif all(value is values[0] or value == values[0] for value in values):
            merged[name] = values[0]
        else:
            raise ArgumentError(f"prompts that run in one batch need the same {name}")
    return merged
