"""Linear operators of imaging, with the spectrum of A A' that an exact Gaussian guess needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from feynkac.base.arrays import read_truth_array
from feynkac.base.errors import ArgumentError, quote
from feynkac.base.numbers import read_count
from feynkac.tensors import read_tensor


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

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not callable(self.apply) or not callable(self.whiten):
            raise ArgumentError(f"Operator({quote(self.name)}): give a name, and functions apply and whiten")
        gram = read_tensor("Operator: gram", self.gram).detach()
        if gram.ndim != 1 or not bool((gram >= 0.0).all()):
            raise ArgumentError(f"Operator({quote(self.name)}): gram is (m,) or (1,) eigenvalues, each at least 0")
        object.__setattr__(self, "gram", gram)


_MASK = "give a tensor of bool, True where the sample is seen"


def _flat(y: Tensor) -> Tensor:
    return y.flatten(1)


def inpainting(mask: Tensor) -> Operator:
    """See the coordinates where `mask`, of the shape of one sample, is True. Raises ArgumentError for other masks."""
    given = (
        mask if isinstance(mask, Tensor) else torch.from_numpy(read_truth_array("inpainting: mask", mask, _MASK).copy())
    )
    if given.dtype != torch.bool or given.layout != torch.strided or given.is_meta or not bool(given.any()):
        raise ArgumentError(f"inpainting: mask is {quote(mask)}; {_MASK}, somewhere at least")
    seen = torch.nonzero(given.flatten())[:, 0]

    def look(x: Tensor) -> Tensor:
        if x.shape[1:].numel() != given.numel():
            raise ArgumentError(
                f"inpainting: a mask of shape {tuple(given.shape)} for a sample of {tuple(x.shape[1:])}; give one of "
                "the shape of a sample"
            )
        return x.flatten(1)[:, seen.to(x.device)]

    return Operator("inpainting", look, _flat, torch.ones(1, device="cpu"))


def superresolution(factor: int) -> Operator:
    """See the means of blocks of `factor` x `factor` pixels of (..., height, width). Raises ArgumentError."""
    factor = read_count("superresolution: factor", factor)

    def pool(x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-1] % factor or x.shape[-2] % factor:
            raise ArgumentError(f"superresolution({factor}) of {tuple(x.shape)}: sides must be multiples of the factor")
        return x.unflatten(-1, (-1, factor)).mean(-1).unflatten(-2, (-1, factor)).mean(-2)

    return Operator("superresolution", pool, _flat, torch.full((1,), 1.0 / factor**2, device="cpu"))


def deblurring(kernel: Tensor, height: int, width: int) -> Operator:
    """See (..., height, width) samples through a blur with `kernel` (kh, kw), which goes around at the edges.

    Raises ArgumentError for a kernel that is none, or larger than the samples.
    """
    kernel = read_tensor("deblurring: kernel", kernel).detach().cpu()
    height, width = read_count("deblurring: height", height), read_count("deblurring: width", width)
    fits = kernel.ndim == 2 and 0 < kernel.shape[0] <= height and 0 < kernel.shape[1] <= width
    if not fits:
        raise ArgumentError(
            f"deblurring: a kernel of shape {tuple(kernel.shape)} for samples of {height} x {width}; give (kh, kw), no "
            "larger than a sample"
        )
    padded = torch.zeros(height, width, dtype=torch.float64, device="cpu")
    padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    shifts = (-(kernel.shape[0] // 2), -(kernel.shape[1] // 2))
    spectrum = torch.fft.fft2(torch.roll(padded, shifts, (0, 1)))

    def blur(x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != (height, width):
            raise ArgumentError(
                f"deblurring: samples of shape {tuple(x.shape[1:])}, and the operator is for (..., {height}, {width})"
            )
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * spectrum.to(x.device)).real.to(x.dtype)

    def whiten(y: Tensor) -> Tensor:
        return torch.fft.fft2(y.double(), norm="ortho").reshape(len(y), -1, height * width)

    return Operator("deblurring", blur, whiten, (spectrum.abs() ** 2).flatten())


def linear(matrix: Tensor) -> Operator:
    """See `matrix` (m, D) times the flattened sample. Raises ArgumentError for what is no matrix."""
    matrix = read_tensor("linear: matrix", matrix).detach()
    if matrix.ndim != 2 or not matrix.numel():
        raise ArgumentError(f"linear: a matrix of shape {tuple(matrix.shape)}; give (m, D) for samples of D numbers")
    values, vectors = torch.linalg.eigh(matrix.double() @ matrix.double().T)

    def apply(x: Tensor) -> Tensor:
        if x.shape[1:].numel() != matrix.shape[1]:
            raise ArgumentError(
                f"linear: a matrix of shape {tuple(matrix.shape)} for samples of {x.shape[1:].numel()} numbers; give a "
                "column for each"
            )
        return x.flatten(1) @ matrix.to(x).T

    return Operator("linear", apply, lambda y: y.double() @ vectors.to(y.device), values.clamp(min=0.0))
