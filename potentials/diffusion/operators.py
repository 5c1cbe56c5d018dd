"""Linear operators of imaging, with the spectrum of A A' that an exact Gaussian guess needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.base.errors import ArgumentError


@dataclass(frozen=True)
class Operator:
    """A linear map A of samples, with a unitary U that makes A A' = U' diag(gram) U diagonal."""

    name: str
    apply: Callable[[Tensor], Tensor]
    """(R, ...) samples to (R, m...) observations."""
    whiten: Callable[[Tensor], Tensor]
    """(R, m...) observations to (R, m) coordinates, complex where U is."""
    gram: Tensor
    """(m,) or (1,) eigenvalues of A A'."""


def _flat(y: Tensor) -> Tensor:
    return y.flatten(1)


def inpainting(mask: Tensor) -> Operator:
    """See the coordinates where `mask`, of the shape of one sample, is True."""
    if mask.dtype != torch.bool or not bool(mask.any()):
        raise ArgumentError(f"inpainting: the mask is {mask.dtype}; it must be bool, True where the sample is seen")
    seen = torch.nonzero(mask.flatten())[:, 0]
    return Operator("inpainting", lambda x: x.flatten(1)[:, seen.to(x.device)], _flat, torch.ones(1, device="cpu"))


def superresolution(factor: int) -> Operator:
    """See the means of blocks of `factor` x `factor` pixels of (..., height, width)."""
    if factor < 1:
        raise ArgumentError(f"superresolution({factor}): the factor is at least 1")

    def pool(x: Tensor) -> Tensor:
        if x.shape[-1] % factor or x.shape[-2] % factor:
            raise ArgumentError(f"superresolution({factor}) of {tuple(x.shape)}: sides must be multiples of the factor")
        return x.unflatten(-1, (-1, factor)).mean(-1).unflatten(-2, (-1, factor)).mean(-2)

    return Operator("superresolution", pool, _flat, torch.full((1,), 1.0 / factor**2, device="cpu"))


def deblurring(kernel: Tensor, height: int, width: int) -> Operator:
    """See (..., height, width) samples through a blur with `kernel` (kh, kw), which goes around at the edges."""
    padded = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    shifts = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
    spectrum = torch.fft.fft2(torch.roll(padded, shifts, (0, 1)))

    def blur(x: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * spectrum.to(x.device)).real.to(x.dtype)

    def whiten(y: Tensor) -> Tensor:
        return torch.fft.fft2(y.double(), norm="ortho").reshape(len(y), -1, height * width)

    return Operator("deblurring", blur, whiten, (spectrum.abs() ** 2).flatten())


def linear(matrix: Tensor) -> Operator:
    """See `matrix` (m, D) times the flattened sample."""
    values, vectors = torch.linalg.eigh(matrix.double() @ matrix.double().T)

    def apply(x: Tensor) -> Tensor:
        return x.flatten(1) @ matrix.to(x).T

    return Operator("linear", apply, lambda y: y.double() @ vectors.to(y.device), values.clamp(min=0.0))
