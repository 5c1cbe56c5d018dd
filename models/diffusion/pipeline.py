"""Any pipeline of diffusers as a model: it runs by itself, and asks us for the next latents.

One particle is one row of the pipeline's batch. The pipeline keeps nothing else that differs between the particles of a
prompt, and it gets its latents back from its scheduler: to hand over forked latents is all that resampling takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feynkac.base.arguments import suggest_names
from feynkac.base.capabilities import Adapts, Biased
from feynkac.base.contract import LogW, Mask, Rng
from feynkac.base.errors import ArgumentError, FeynkacError
from feynkac.base.numbers import read_count, read_real, read_whole
from feynkac.models.diffusion.decoding import decoder_of
from feynkac.models.diffusion.forkable import ForkCheck, check_memory
from feynkac.models.diffusion.gradients import check_gradients
from feynkac.models.diffusion.paths import LatentPath
from feynkac.models.diffusion.pipeline_arguments import check_call, check_kind
from feynkac.models.diffusion.pipeline_end import OwnEnd, find_decoder, reader_for
from feynkac.models.diffusion.pipeline_opening import make_arguments, open_call, rehearse, seed_generators
from feynkac.models.diffusion.pipeline_singly import Call
from feynkac.models.diffusion.pipeline_source import PipelineSource, Prepared, part_from
from feynkac.models.diffusion.pipeline_whole import WHOLE, Drawn, hold
from feynkac.models.diffusion.preview import Fit, Preview, preview_of
from feynkac.models.diffusion.proposals import BASE, Proposal, keeps_graph
from feynkac.models.diffusion.sampler import DiffusionSampler
from feynkac.models.diffusion.saving import identify_pipeline, load_latents, save_latents
from feynkac.models.diffusion.scheduler_trial import Tried
from feynkac.models.diffusion.schedulers import schedule_of
from feynkac.models.diffusion.state import Latents

DECODED = 8
"""The rows for one call of a decoder by default: its memory exceeds a network's."""


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
    batch: int | None = field(default=None, kw_only=True)
    """The particles for one call of a network or a decoder; None: DECODED in a decoder, in a network all."""
    _fits: dict[tuple[int, ...], Fit] = field(default_factory=dict, kw_only=True, compare=False, repr=False)
    _tried: Tried = field(default_factory=dict, kw_only=True, compare=False, repr=False)
    _refusal: FeynkacError | None = field(default=None, kw_only=True, compare=False, repr=False)
    """Why its particles cannot be copied, if it is for the scheduler; it can then only be run whole."""
    _keeps: bool = field(default=False, kw_only=True, compare=False, repr=False)
    """Whether a run keeps what its pipeline is given, to be saved."""
    _apart: bool = field(default=False, kw_only=True, compare=False, repr=False)
    """Whether no particles are twins for a step, by which networks are tried."""

    name = "diffusion pipeline"

    @classmethod
    @suggest_names()
    def from_pipeline(
        cls,
        pipe: Any,
        steps: int = 50,
        eta: float | None = None,
        *,
        proposal: Proposal = BASE,
        decode: Callable[[Tensor], Tensor] | None = None,
        preview: Preview = None,
        batch: int | None = None,
    ) -> Diffusion:
        """Steer `pipe`, a pipeline of diffusers, which is neither copied nor changed.

        `eta`: how much noise its sampler adds; needed for flow models, 1 is the default of DDIM. Without noise, and
        with schedulers that remember earlier steps, only the algorithms "importance" and "best_of_n" run. `decode`:
        latents to what rewards see, by default with the pipeline's VAE, tried at the first step, and where that is used
        in another way than usual by the end of a call of the pipeline, which runs its text encoders again for each
        decoding (ask for guesses seldom then, with `every=`, or give `preview=`).

        `batch`: how many particles the pipeline's networks, `decode` and `preview` get at a time, which bounds the
        memory; samples and weights are those of one batch up to rounding. By default networks get all particles, which
        is fastest where they are small, and halves of them from where memory runs out, and decoders get 8.

        `preview`: the same for guesses on the way, which change no target, so that it may be cheap:
        - "linear", the default with a usual VAE: colours affine in the latents' channels, in full size but as sharp as
          latents are. It costs nothing to speak of, where the VAE takes 0.8 (SDXL) to 1.6 times (SD 1.5) a guided step.
        - "full": `decode`. For rewards of what is fine (text, texture, sharpness), best with `every=` a few steps.
        - A small VAE of the same latents, such as AutoencoderTiny, which takes a tenth of a step of SD 1.5.
        - Any function of latents; with `decode` given, the default is `decode`.

        Raises ArgumentError for what is no number, for steps and an eta that the scheduler has not, and ModelError for
        pipelines that make one sample of all that they draw, and where the proposal asks for a gradient that there is
        not. `steer` raises what `check_forks` does, and ModelError for a network that says of a particle what depends
        on the others in its batch, where `batch` is fewer than all.
        """
        steps = read_count("steps", steps)
        batch = None if batch is None else read_whole("batch", batch, 1)
        eta = None if eta is None else read_real("eta", eta, 0.0, "; 1 is as much noise as DDPM adds")
        scheduler = getattr(pipe, "scheduler", None)
        if scheduler is None or not callable(pipe):
            raise ArgumentError(f"{type(pipe).__name__} is no pipeline of diffusers: it has no scheduler")
        check_kind(pipe)
        tried: Tried = {}
        refusal = rehearse(pipe, steps, eta, tried)
        if refusal is not None and proposal is not BASE:
            raise refusal  # it would have nothing to shift
        if keeps_graph(proposal):
            check_gradients(pipe)
        preview_of(preview, decode or decoder_of(pipe) or OwnEnd(pipe), decode is None, {})
        own = {"proposal": proposal, "decode": decode, "preview": preview, "batch": batch}
        return cls(pipe, steps, eta, **own, _tried=tried, _refusal=refusal)

    @classmethod
    @suggest_names()
    def demo(cls, steps: int = 20, eta: float | None = None) -> Diffusion:
        """A pipeline of handwritten digits, images (1, 8, 8), that comes with feynkac; it takes no prompt.

            model = fk.Diffusion.demo()
            fk.steer(model, fk.reward(lambda image: image.mean(), scale=30.0), particles=32).plot()

        `steps` and `eta` are those of `from_pipeline`; `model.pipe` is the pipeline of diffusers. Raises MissingExtra
        where diffusers is not installed.
        """
        from feynkac.models.diffusion.folder import DEMO, open_pipeline

        return cls.from_pipeline(open_pipeline(DEMO), steps, eta)

    def check_forks(self) -> None:
        """Raises ModelError or ArgumentError where its particles cannot be copied, with what to set.

        They cannot where the scheduler draws no noise or remembers earlier steps, or a network does (caches).
        """
        if self._refusal is not None:
            raise type(self._refusal)(*self._refusal.args)
        check_memory(self.pipe, self.calls)

    @property
    def biased(self) -> bool:
        """Whether the proposal leaves its weights out, so that the samples follow no declared target."""
        return isinstance(self.proposal, Biased) and self.proposal.biased

    @property
    def adapts(self) -> bool:
        """Whether the proposal goes by all particles."""
        return isinstance(self.proposal, Adapts) and self.proposal.adapts

    def keep_apart(self) -> Diffusion:
        """See `feynkac.base.capabilities.KeepsSources`: each slot has a generator of its own."""
        return replace(self, _apart=True)

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
        check_call(self.pipe, given)
        return replace(self, calls=(given,))

    def join(self, others: Sequence[Any]) -> Diffusion:
        """One model of several prompts in one batch."""
        for other in others:
            if not isinstance(other, Diffusion) or replace(other, calls=self.calls) != self:
                raise ArgumentError("problems run in one batch only if they are prompts of one pipeline")
        return replace(self, calls=(*self.calls, *(call for other in others for call in other.calls)))

    def init(self, n: int, rng: Rng) -> Prepared:
        """`n` particles, of which nothing is drawn: the pipeline does so at the first step, with our generators."""
        make_arguments(self.pipe, self.calls, n, {})  # what is wrong with them is said before anything runs
        if keeps_graph(self.proposal):
            check_gradients(self.pipe)
        sources = seed_generators(n, rng)
        return Prepared(n, lambda: self._begin(n, rng, sources), sources)

    def step(self, t: int, state: Any, rng: Rng) -> tuple[Latents, LogW]:
        """Move every latent to the next level (see `DiffusionSampler.advance`), or to the end where it runs whole."""
        state = state.begin() if isinstance(state, Prepared) else state
        return (state, np.zeros(len(state))) if self.done(state).all() else state.sampler.step(t, state, rng)

    def replay(self, t: int, state: Any, rng: Rng, reference: LatentPath) -> tuple[Latents, LogW]:
        """Like `step`, except that row 0 goes from latent to latent of `reference`, a path of the same pipeline."""
        self.check_forks()
        state = state.begin(reference) if isinstance(state, Prepared) else state
        return state.sampler.replay(t, state, rng, reference)

    def trace(self, state: Latents, row: int) -> LatentPath:
        """The path of a `row`."""
        return state.sampler.trace(state, row)

    def done(self, state: Latents) -> Mask:
        """(N,) whether the last level is reached, which all rows do together."""
        return state.sampler.done(state)

    def prepare_saving(self) -> Diffusion:
        """See `feynkac.base.capabilities.Saves`: what the pipeline is given is kept from now on."""
        return replace(self, _keeps=True)

    def identify(self) -> dict[str, Any]:
        """What tells this model from others: the pipeline's networks, its scheduler, and the arguments of its call."""
        return identify_pipeline(self.pipe, self.calls, steps=self.steps, eta=self.eta, proposal=self.proposal)

    def save(self, state: Latents) -> Any:
        """See `feynkac.base.capabilities.Saves`."""
        source = state.sampler.source
        if not (isinstance(source, PipelineSource) and state.t < len(state.sampler.schedule)):
            return {"latents": save_latents(state), "call": None, "seeds": [0] * len(state)}
        return {"latents": save_latents(state), "call": source.save(), "seeds": source.seeds}

    def load(self, saved: Any) -> Latents:
        """What `save` wrote: the pipeline is called again, and led to where it was."""
        sources = [torch.Generator("cpu").manual_seed(seed) for seed in saved["seeds"]]
        sampler, _ = self._open(sources)
        if saved["call"] is not None:
            assert isinstance(sampler.source, PipelineSource)
            sampler.source.load(saved["call"], saved["latents"]["t"])
        return load_latents(sampler, saved["latents"], self._prompts)

    def write_path(self, path: LatentPath) -> Any:
        """See `feynkac.base.capabilities.SavesPaths`."""
        return path.latents, path.seed

    def read_path(self, saved: Any) -> LatentPath:
        """What `write_path` wrote."""
        latents, seed = saved
        return LatentPath(tuple(each.to(self.pipe.device) for each in latents), seed)

    @property
    def _prompts(self) -> tuple[str | None, ...]:
        """The prompt of each problem, where it is a text."""
        said = [given.get("prompt") for given in self.calls]
        return tuple(prompt if isinstance(prompt, str) else None for prompt in said)

    def _begin(self, n: int, rng: Rng, sources: list[torch.Generator]) -> Latents:
        """The particles at the first question of the pipeline, or at its end where it runs whole."""
        sampler, call = self._open(sources)
        if self._refusal is None:
            state = sampler.init(n, rng)
        else:
            drawn = call.finish()
            state = hold(sampler, reader_for(self.pipe, sampler.decode)(call.returned, drawn), len(self.calls))
            call.tell(state)
        return replace(state, prompts=self._prompts)

    def _open(self, sources: list[torch.Generator]) -> tuple[DiffusionSampler, Call]:
        """The sampler of a new call, which stands at the first question of the pipeline."""
        options = {"num_inference_steps": self.steps}
        call, question = open_call(self.pipe, self.calls, sources, options, self.batch)
        end = OwnEnd(self.pipe, self.calls, options, call.room.known, sources[0].initial_seed())
        decode, preview = find_decoder(end, call.size, question.x, self.decode, self.preview, self._fits)
        source, schedule = Drawn(), WHOLE
        if self._refusal is None:
            read, check = reader_for(self.pipe, decode), ForkCheck(self.pipe, self.check_forks)
            source = PipelineSource(call, len(self.calls), sources, self.eta, self.proposal, read, check, self._tried)
            source.given = [] if self._keeps else None
            if self._apart:
                source.keep_apart()
            schedule = part_from(schedule_of(call.scheduler, self.eta), float(question.time))
        sampler = DiffusionSampler(
            source,
            schedule,
            tuple(question.x.shape[1:]),
            proposal=self.proposal,
            decode=decode,
            preview=preview,
            batch=self.batch or DECODED,
            dtype=question.x.dtype,
            device=question.x.device,
        )
        return sampler, call
