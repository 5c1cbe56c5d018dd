"""Gaussian mixtures: denoisers without a network, whose evidence and posterior are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_particles, read_positive
from feynkac.base.sampling import NoiseLevel
from feynkac.models.diffusion.kernel import check_levels
from feynkac.tensors import read_tensor

CLEAN = NoiseLevel(1.0, 0.0)


def _read(name: str, value: object) -> Tensor:
    return read_tensor(f"GaussianMixture: {name}", value, torch.float64).detach()


def _is_symmetric(matrix: Tensor) -> bool:
    """Whether (..., d, d) numbers are symmetric, up to rounding in single precision."""
    return bool((matrix - matrix.mT).abs().max() <= 1e-6 * matrix.abs().max())


def _check_latents(x: object, noise_level: object, size: int) -> None:
    if not isinstance(x, Tensor) or x.ndim < 2 or x[0:1].numel() not in (0, size):
        found = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else quote(x)
        raise ArgumentError(f"a mixture over {size} coordinates is asked about {found}; give a tensor (R, {size})")
    check_levels("GaussianMixture", noise_level)


class GaussianMixture:
    """The law sum_k weight_k N(mean_k, cov_k) over d coordinates, and its exact denoiser.

    Latents may have any shape of d coordinates, such as that of an image.
    `weights` (K,); `means` (K, d); `covariances` (K, d, d), (K, d) diagonals, (K,) or a single number for
    isotropic ones. float64. Raises ArgumentError for shapes that do not fit and for variances that are not positive.
    """

    def __init__(self, weights: object, means: object, covariances: object) -> None:
        self.weights = _read("weights", weights)
        self.means = _read("means", means)
        given = cov = _read("covariances", covariances)
        if self.means.ndim != 2 or not self.means.numel():
            raise ArgumentError(
                f"GaussianMixture: means of shape {tuple(self.means.shape)}; give (K, d), a row for each"
            )
        k, d = self.means.shape
        if cov.shape in ((), (k,)):
            cov = cov.expand(k)[:, None].expand(k, d)
        self.covariances = torch.diag_embed(cov) if cov.ndim == 2 else cov
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            raise ArgumentError(
                f"{k} means of {d} coordinates need (K,) weights and K covariances, not weights of shape "
                f"{tuple(self.weights.shape)} and covariances of shape {tuple(given.shape)}"
            )
        if not _is_symmetric(self.covariances):
            raise ArgumentError("GaussianMixture: a covariance is not symmetric")
        # Eigenvectors once, since alpha^2 C + sigma^2 I has those of C at every noise level. Diagonal ones need none.
        self._values, self._vectors = (cov, None) if cov.ndim == 2 else torch.linalg.eigh(self.covariances)
        if not bool((self.weights >= 0).all()) or not bool((self._values > 0).all()):
            raise ArgumentError("a mixture has weights of at least 0 and positive variances")
        if not 0.0 < float(self.weights.sum()) < math.inf:
            raise ArgumentError("a mixture has weights of which one at least is above 0, and whose sum is finite")
        self.weights = self.weights / self.weights.sum()

    def _at(self, x: Tensor, noise_level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        """(R, K) log joint density in nats, (R, K, d) offsets in eigen-coordinates, (K, d) variances of x."""
        _check_latents(x, noise_level, self.means.shape[1])
        variance = noise_level.alpha**2 * self._values + noise_level.sigma**2
        offset = x.double().flatten(1)[:, None] - noise_level.alpha * self.means
        if self._vectors is not None:
            offset = torch.einsum("rkd,kde->rke", offset, self._vectors)
        density = -0.5 * (offset**2 / variance + torch.log(2 * math.pi * variance)).sum(-1)
        return density + self.weights.log(), offset, variance

    def x0hat(self, x: Tensor, t: NoiseLevel, /) -> Tensor:
        """(R, ...) E[x0 | x] of latents of d coordinates."""
        joint, offset, variance = self._at(x, t)
        gain = t.alpha * self._values / variance
        x0hat = torch.einsum("rk,rkd->rd", joint.softmax(1), self.means + self._turn_back(gain * offset))
        return x0hat.to(x.dtype).reshape(x.shape)

    def _turn_back(self, offset: Tensor) -> Tensor:
        """(R, K, d) offsets in eigen-coordinates, back in those of samples."""
        return offset if self._vectors is None else torch.einsum("rke,kde->rkd", offset, self._vectors)

    def log_prob(self, x: Tensor, noise_level: NoiseLevel = CLEAN) -> Tensor:
        """(R,) nats: the log-density of (R, ...) latents at `noise_level`, or of samples."""
        return self._at(x, noise_level)[0].logsumexp(1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """(n, d) draws. Raises ArgumentError for a number below 1."""
        n = read_particles("sample: n", n)
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = (
            torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=self.means.device)
            * self._values[k].sqrt()
        )
        return self.means[k] + (z if self._vectors is None else torch.einsum("ne,nde->nd", z, self._vectors[k]))

    def observe(self, matrix: object, y: object, variance: float) -> tuple[float, GaussianMixture]:
        """Log evidence in nats and posterior of y = A x + N(0, variance I); `matrix` A is (m, d), `y` (m,).

        Raises ArgumentError for shapes that do not fit, and for a variance that is not above 0.
        """
        a, y = _read("matrix", matrix), _read("y", y)
        variance = read_positive("observe: variance", variance)
        if a.ndim != 2 or a.shape[1] != self.means.shape[1] or y.shape != a.shape[:1] or not len(a):
            raise ArgumentError(
                f"observe: a matrix of shape {tuple(a.shape)} and y of shape {tuple(y.shape)}; for samples of "
                f"{self.means.shape[1]} coordinates they are (m, {self.means.shape[1]}) and (m,)"
            )
        seen = y - self.means @ a.T
        across = a @ self.covariances @ a.T + variance * torch.eye(len(a), dtype=torch.float64, device=a.device)
        gain = torch.linalg.solve(across, a @ self.covariances).transpose(1, 2)
        fit = torch.distributions.MultivariateNormal(torch.zeros_like(seen), across).log_prob(seen)
        joint = fit + self.weights.log()
        cov = self.covariances - gain @ a @ self.covariances
        posterior = GaussianMixture(
            joint.softmax(0), self.means + torch.einsum("kdm,km->kd", gain, seen), 0.5 * (cov + cov.transpose(1, 2))
        )
        return float(joint.logsumexp(0)), posterior

    def tilt(self, center: object, precision: object) -> tuple[float, GaussianMixture]:
        """log E[exp(r)] in nats and the law tilted by exp(r), for r(x) = -(x - center)' P (x - center) / 2.

        `precision` P is (d, d), positive definite, or one number. Raises ArgumentError for others, and for another
        number of coordinates.
        """
        d = self.means.shape[1]
        c, p = _read("center", center), _read("precision", precision)
        p = p if p.ndim else p * torch.eye(d, dtype=torch.float64, device=p.device)
        if c.shape != (d,) or p.shape != (d, d):
            raise ArgumentError(
                f"tilt: a center of shape {tuple(c.shape)} and a precision of shape {tuple(p.shape)}; for samples of "
                f"{d} coordinates they are ({d},) and ({d}, {d}), or one number"
            )
        lower, wrong = torch.linalg.cholesky_ex(p)
        if int(wrong) or not _is_symmetric(p):
            raise ArgumentError("tilt: the precision is not symmetric and positive definite")
        root = lower.T
        log_z, posterior = self.observe(root, root @ c, 1.0)
        return log_z + 0.5 * d * math.log(2 * math.pi), posterior
