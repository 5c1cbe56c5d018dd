"""What goes wrong in a user's hands: one clear error each, with what to set."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import feynkac as fk
from feynkac.base.errors import ArgumentError, ModelError, PotentialError, is_out_of_memory
from feynkac.models import diffusion as fd
from feynkac.potentials import diffusion as fp
from feynkac.smc import resample as schemes
from feynkac.smc.engine import smc
from feynkac.smc.rng import Streams

PRIOR = fd.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], 0.2)


def bowl(x):
    return -((x - 0.5) ** 2).sum(1)


def steered(potential=None, denoiser=PRIOR, particles=8, **options):
    sampler = fd.DiffusionSampler(denoiser, fd.ddpm(6), (2,), **options)
    return fk.steer(sampler, potential or fk.reward(bowl, batch=True), particles=particles, seed=0, progress=False)


# --- memory ----------------------------------------------------------------------------------------------------------


class Cramped:
    """PRIOR, which runs out of memory above so many rows, as torch says it on the host or on a device."""

    def __init__(self, rows, error):
        self.rows, self.error = rows, error

    def check(self, x):
        if len(x) > self.rows:
            raise self.error
        return x

    def x0hat(self, x, t):
        return PRIOR.x0hat(self.check(x), t)


MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "host": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
    "python": MemoryError("Unable to allocate 8 GiB"),
}


@pytest.mark.parametrize("where", ["network", "decoder", "preview"])
@pytest.mark.parametrize("kind", MEMORY)
def test_memory_that_runs_out_halves_the_rows_at_once_and_says_so(where, kind, caplog):
    cramped = Cramped(4, MEMORY[kind])
    options = {
        "network": {"denoiser": cramped},
        "decoder": {"decode": cramped.check},
        "preview": {"preview": cramped.check},
    }
    found, wanted = steered(**options[where]), steered()
    said = f"memory ran out while the {where} worked on 8 rows; it gets fewer at a time from now on"
    assert [warning for warning in found.warnings if said in warning] == [
        warning for warning in found.warnings if "memory" in warning
    ]
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len([record for record in told if said in record.getMessage()]) == 1
    np.testing.assert_allclose(torch.stack(found.samples), torch.stack(wanted.samples), atol=1e-6)
    assert np.isclose(found.log_evidence, wanted.log_evidence) and not any("memory" in each for each in wanted.warnings)


def test_memory_that_runs_out_in_a_gradient():
    class Heavy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            if len(gradient) > 4:
                raise MEMORY["cuda"]
            return gradient

    reward = fk.reward(lambda x: bowl(Heavy.apply(x)), batch=True)
    with pytest.raises(ModelError, match="the gradient worked on 8 rows at once; give the model batch=4"):
        steered(reward, proposal=fd.Guided(reward))
    assert np.isfinite(steered(reward, proposal=fd.Guided(reward), batch=4).log_evidence)


def test_memory_that_runs_out_in_a_reward():
    reward = fk.reward(lambda x: bowl(Cramped(4, MEMORY["cuda"]).check(x)), batch=True)
    found = steered(reward)
    assert any("memory ran out in 'reward(<lambda>)', asked about 8 samples" in said for said in found.warnings)
    assert np.isclose(found.log_evidence, steered().log_evidence)
    nothing = fk.reward(lambda x: bowl(Cramped(0, MEMORY["cuda"]).check(x)), batch=True)
    with pytest.raises(PotentialError, match=r"OutOfMemoryError.*; give the model a smaller batch="):
        steered(nothing)


def test_one_row_that_does_not_fit_gets_other_advice():
    with pytest.raises(ModelError, match="half precision") as caught:
        steered(denoiser=Cramped(0, MEMORY["cuda"]), batch=1)
    assert "batch=" not in str(caught.value)


def test_what_torch_itself_says_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_other_errors_of_a_network_arrive_with_their_cause():
    with pytest.raises(ModelError, match="raised RuntimeError: shapes do not match") as caught:
        steered(denoiser=Cramped(4, RuntimeError("shapes do not match")))
    assert isinstance(caught.value.__cause__, RuntimeError)


# --- networks and decoders -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "name"), [("decode", "the decoder"), ("preview", "the preview")])
@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (lambda x: x[:1], r"made shape \(1, 2\) of 8 latents; it must return a tensor with one sample for each"),
        (lambda x: x.sum(), r"made shape \(\) of 8 latents"),
        (lambda x: x.numpy(), "made ndarray of 8 latents; it must return a tensor"),
        (lambda x: x / 0.0, "made samples with nan or infinity of latents that are finite; .*float32"),
    ],
)
def test_what_a_decoder_makes_is_looked_at(where, name, decode, message):
    with pytest.raises(ModelError, match=f"{name} {message}"):
        steered(**{where: decode})


def darken(x):
    return x.reshape(7, 7)


@pytest.mark.parametrize("every", [1, "end"])
@pytest.mark.parametrize("proposal", ["kernel", "guided"])
@pytest.mark.parametrize(("where", "name"), [("decode", "the decoder"), ("preview", "the preview")])
def test_a_decoder_that_raises_is_blamed_and_not_the_reward_that_asked_for_its_samples(where, name, proposal, every):
    reward = fk.reward(bowl, batch=True, every=every)
    options = {"proposal": fd.Guided(fk.reward(bowl, batch=True))} if proposal == "guided" else {}
    if where == "preview" and every == "end" and not options:
        return  # nobody asks for it
    with pytest.raises(ModelError, match=rf"^{name} 'darken' raised RuntimeError: .*latents of shape \(8, 2\)") as said:
        steered(reward, **{where: darken}, **options)
    assert isinstance(said.value.__cause__, RuntimeError) and "reward" not in str(said.value)


def test_a_network_that_overflows_is_not_blamed_on_the_reward():
    class Overflows:
        def x0hat(self, x, t):
            return PRIOR.x0hat(x, t) * float("nan")

    with pytest.raises(ModelError, match="the latents hold nan or infinity, and so must what the network predicted"):
        steered(denoiser=Overflows())


def test_a_decoder_that_fails_again_for_the_partial_result_does_not_hide_the_error():
    calls = []

    def decode(x):
        calls.append(1)
        return x / 0.0 if len(calls) > 3 else x

    with pytest.raises(ModelError, match="nan or infinity") as caught:
        steered(decode=decode)
    assert len(calls) == 5 and caught.value.partial is None and caught.value.__context__ is None


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_schedules_take_the_whole_numbers_of_numpy():
    assert len(fd.ddpm(np.int64(6))) == len(fd.flow(np.int64(6))) == 6
    assert len(fd.flow(np.array([1.0, 0.5]))) == 2


@pytest.mark.parametrize("make", [fd.ddpm, fd.lcm, fd.flow])
@pytest.mark.parametrize("steps", [6.0, None, True, 0, -1, float("nan")])
def test_what_is_no_number_of_steps_is_refused(make, steps):
    with pytest.raises(ArgumentError, match=r"steps is .*; it must be an integer of at least 1"):
        make(steps)


@pytest.mark.parametrize("eta", ["1", float("nan"), -1.0, True, None])
def test_what_is_no_eta_is_refused(eta):
    for make in (lambda: fd.ddim(6, eta), lambda: fd.flow(6, eta), lambda: fd.euler_ancestral([2.0, 1.0], eta)):
        with pytest.raises(ArgumentError, match=r"eta is .*; it must be a number of at least 0"):
            make()


@pytest.mark.parametrize("options", [{"trust": "1"}, {"trust": float("nan")}, {"strength": "1"}, {"strength": np.nan}])
def test_what_is_no_number_for_guided_is_refused(options):
    with pytest.raises(ArgumentError, match=rf"Guided: {next(iter(options))} is"):
        fd.Guided(fk.reward(bowl, batch=True), **options)


@pytest.mark.parametrize("batch", [0, "2", 2.0, True])
def test_what_is_no_number_of_rows_is_refused(batch):
    with pytest.raises(ArgumentError, match=r"batch is .*; it must be an integer of at least 1, the rows"):
        fd.DiffusionSampler(PRIOR, fd.ddpm(6), (2,), batch=batch)


NOISY, CLEANER = fd.NoiseLevel(0.5, 0.8), fd.NoiseLevel(0.9, 0.4)
EYE = torch.eye(2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: fd.flow([0.2, 0.5]), "flow: steps is .* must fall"),
    (lambda: fd.flow([2.0, 1.0]), "the noisiest sigma is 2.0"),
    (lambda: fd.euler_ancestral([1.0, 2.0]), "euler_ancestral: sigmas is .* must fall"),
    (lambda: fd.chain([CLEANER, NOISY], fd.ancestral, 1.0), "adds noise; give the noisiest level first"),
    (lambda: fd.ddpm(2, [0.1, 0.5, 0.9]), "alphas_bar is .* falling"),
    (lambda: fd.ddpm(2, [0.9, -0.1]), "alphas_bar is .* falling"),
    (lambda: fd.Transition(NOISY, CLEANER, 0.1, -0.2), "std is -0.2"),
    (lambda: fd.NoiseLevel(math.inf, 1.0), "alpha is inf"),
    (lambda: fd.Network(bowl, clip=-1.0), "clip is -1.0"),
    (lambda: fd.Network(bowl, kind="noise"), "prediction 'noise'"),
    (lambda: fd.GaussianMixture([0.0, 0.0], [[0.0], [1.0]], 1.0), "above 0"),
    (lambda: fd.GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "not symmetric"),
    (lambda: fd.GaussianMixture([1.0], [[0.0, math.nan]], 1.0), "means holds NaN"),
    (lambda: PRIOR.observe(EYE, [0.0, 0.0], -1.0), "variance is -1.0"),
    (lambda: fd.DiffusionSampler(PRIOR, fd.ddpm(2), 2), "shape is 2; give that of one latent"),
    (lambda: fd.DiffusionSampler(torch.nn.Identity(), fd.ddpm(2), (2,)), r"no denoiser; .*Network\(f\)"),
    (lambda: fd.DiffusionSampler(PRIOR, 50, (2,)), "schedule is 50; give a NoiseSchedule"),
    (lambda: fd.DiffusionSampler(PRIOR, fd.ddpm(2), (2,), dtype=torch.int64), "dtype is torch.int64"),
    (lambda: fd.Guided(fk.reward(bowl, batch=True), weighted="no"), "weighted is 'no'; give True or False"),
    (lambda: fd.guide(PRIOR, PRIOR, "2"), "scale is '2'"),
    (lambda: fd.multiply(), "add up to 0"),
])  # fmt: skip
def test_numbers_and_parts_that_would_pass_in_silence_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: fp.observed(fp.linear(EYE), [0.0, 0.0], -0.5), "noise is -0.5"),
    (lambda: fp.observed(fp.linear(EYE), [0.0, math.nan], 0.5), "y holds NaN"),
    (lambda: fp.inpainting(torch.tensor([0.0, 1.0])), "give a tensor of bool"),
    (lambda: fp.tempered(fk.reward(bowl, batch=True), ess=2.0), "above 0 and below 1"),
    (lambda: fp.tempered(bowl, ess=0.5), "give a potential"),
    (lambda: fp.distances([(0, 1)], least=[1.0, 2.0]), "least is .* for 1 rows"),
])  # fmt: skip
def test_potentials_of_numbers_that_cannot_be_are_refused(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(("operator", "message"), [
    (fp.inpainting(torch.tensor([True])), r"a mask of shape \(1,\) for a sample of \(2,\)"),
    (fp.linear(torch.ones(1, 3)), "for samples of 2 numbers; give a column for each"),
])  # fmt: skip
def test_operators_of_other_samples_are_refused(operator, message):
    with pytest.raises(ArgumentError, match=message):
        steered(fp.observed(operator, [0.0], 0.5))


def test_numbers_are_taken_from_lists_arrays_and_tensors():
    y = np.zeros(2, np.float32)
    for seen in (y, y.tolist(), torch.zeros(2, requires_grad=True)):
        assert np.isfinite(steered(fp.observed(fp.linear(np.eye(2).tolist()), seen, 0.5)).log_evidence)
    assert fd.DiffusionSampler(PRIOR, fd.ddpm(2), [np.int64(2)]).shape == (2,)
    assert len(fd.ddpm(2, torch.tensor([0.9, 0.1]))) == len(fd.edm(np.array([2.0, 1.0]), churn=[0.5, 0.0])) == 2


def test_one_step_is_told_to_take_more_and_not_another_eta():
    sampler = fd.DiffusionSampler(PRIOR, fd.ddpm(1), (2,))
    with pytest.raises(ArgumentError, match="one step leads straight to the sample: take more steps") as said:
        fk.steer(sampler, particles=4)
    assert "eta" not in str(said.value)
    with pytest.raises(ArgumentError, match=r"nothing to shift, .*take more steps"):
        fd.DiffusionSampler(PRIOR, fd.ddpm(1), (2,), proposal=fd.Guided(fk.reward(bowl, batch=True)))


# --- rewards that guide ----------------------------------------------------------------------------------------------


def judged_by_weights():
    """A reward with weights of its own that want a gradient, as CLIP has, of images that have left torch."""
    weights = torch.nn.Linear(2, 1)
    return lambda x: weights(torch.as_tensor(x.detach().numpy()))[:, 0]


WITHOUT_GRADIENT = {
    "numpy": lambda: fk.reward(lambda x: x.detach().numpy()[:, 0], batch=True),
    "one by one": lambda: fk.reward(lambda x: float(x.detach()[0])),
    "own weights": lambda: fk.reward(judged_by_weights(), batch=True),
    "pil": lambda: fk.reward(lambda x: fd.on_pil(lambda image: np.asarray(image).mean())(x.reshape(1, 1, 2))),
    "power": lambda: fk.reward(lambda x: float(x.detach()[0])) ** 0.5,
}


@pytest.mark.parametrize("case", WITHOUT_GRADIENT)
@pytest.mark.parametrize("through", ["denoiser", "x0hat"])
def test_a_reward_without_gradient_cannot_guide_but_weigh(case, through):
    reward = WITHOUT_GRADIENT[case]()
    with pytest.raises(PotentialError, match=r"reward.* has no gradient with respect to the sample.*leave Guided out"):
        steered(reward, proposal=fd.Guided(reward, through=through))
    assert np.isfinite(steered(reward).log_evidence)


def test_a_decoder_without_gradient_cannot_guide():
    reward = fk.reward(bowl, batch=True)
    with pytest.raises(PotentialError, match="in the decoder neither"):
        steered(reward, proposal=fd.Guided(reward), preview=lambda x: x.detach())


def test_only_potentials_guide():
    with pytest.raises(ArgumentError, match=r"Guided\(bowl\).*such as fk\.reward\(f\)"):
        fd.Guided(bowl)
    with pytest.raises(ArgumentError, match="no gradient to follow"):
        guide = fk.reward(bowl, batch=True) * fk.constraint(lambda x: x[:, 0] > 0, batch=True)
        steered(proposal=fd.Guided(guide.factors[1]))


# --- prompts and particles -------------------------------------------------------------------------------------------


def test_problems_share_the_particles_equally():
    sampler = fd.DiffusionSampler(PRIOR, fd.ddpm(6), (2,))
    with pytest.raises(ArgumentError, match="7 particles for 2 problems; give each the same number"):
        list(smc(sampler.join([sampler]), fk.reward(bowl, batch=True), n=7, resample=schemes.never, rng=Streams(0)))
