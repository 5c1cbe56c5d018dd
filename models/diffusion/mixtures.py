"""Gaussian mixtures: denoisers without a network, whose evidence and posterior are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError
from feynkac.base.sampling import NoiseLevel

CLEAN = NoiseLevel(1.0, 0.0)


class GaussianMixture:
    """The law sum_k weight_k N(mean_k, cov_k) over d coordinates, and its exact denoiser.

    Latents may have any shape of d coordinates, such as that of an image.
    `weights` (K,); `means` (K, d); `covariances` (K, d, d), (K, d) diagonals, (K,) or a single number for
    isotropic ones. float64. Raises ArgumentError for shapes that do not fit and for variances that are not positive.
    """

    def __init__(self, weights: object, means: object, covariances: object) -> None:
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.means = torch.as_tensor(means, dtype=torch.float64)
        cov = torch.as_tensor(covariances, dtype=torch.float64)
        k, d = self.means.shape
        if cov.ndim < 2:
            cov = cov.expand(k)[:, None].expand(k, d)
        self.covariances = torch.diag_embed(cov) if cov.ndim == 2 else cov
        if self.weights.shape != (k,) or self.covariances.shape != (k, d, d):
            raise ArgumentError(f"{k} means of {d} coordinates need (K,) weights and K covariances, not {cov.shape}")
        # Eigenvectors once, since alpha^2 C + sigma^2 I has those of C at every noise level. Diagonal ones need none.
        self._values, self._vectors = (cov, None) if cov.ndim == 2 else torch.linalg.eigh(self.covariances)
        if not bool((self.weights >= 0).all()) or not bool((self._values > 0).all()):
            raise ArgumentError("a mixture has weights of at least 0 and positive variances")
        self.weights = self.weights / self.weights.sum()

    def _at(self, x: Tensor, noise_level: NoiseLevel) -> tuple[Tensor, Tensor, Tensor]:
        """(R, K) log joint density in nats, (R, K, d) offsets in eigen-coordinates, (K, d) variances of x."""
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
        """(n, d) draws."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = (
            torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64, device=self.means.device)
            * self._values[k].sqrt()
        )
        return self.means[k] + (z if self._vectors is None else torch.einsum("ne,nde->nd", z, self._vectors[k]))

    def observe(self, matrix: object, y: object, variance: float) -> tuple[float, GaussianMixture]:
        """Log evidence in nats and posterior of y = A x + N(0, variance I); `matrix` A is (m, d), `y` (m,)."""
        a = torch.as_tensor(matrix, dtype=torch.float64)
        seen = torch.as_tensor(y, dtype=torch.float64) - self.means @ a.T
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

        `precision` P is (d, d), positive definite, or one number.
        """
        d = self.means.shape[1]
        p = torch.as_tensor(precision, dtype=torch.float64)
        root = torch.linalg.cholesky(p if p.ndim else p * torch.eye(d, dtype=torch.float64, device=p.device)).T
        log_z, posterior = self.observe(root, root @ torch.as_tensor(center, dtype=torch.float64), 1.0)
        return log_z + 0.5 * d * math.log(2 * math.pi), posterior
