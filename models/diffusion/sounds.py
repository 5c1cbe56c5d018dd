"""From the latents of a pipeline of sounds to waveforms."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from feynkac.base.errors import ModelError, is_out_of_memory
from feynkac.models.diffusion.decoding import copy_vae, find_device, raise_precision


@dataclass(frozen=True)
class Sounds:
    """The VAE of `pipe`, and its vocoder if it has one: latents (R, ...) to waveforms, about from -1 to 1.

    They are (R, channels, samples), or (R, samples) from a vocoder, and cut as the pipeline's call cuts them.
    """

    pipe: Any
    start: float = 0.0
    """Seconds at which the sound begins."""
    end: float | None = None
    """Seconds at which it ends; None: where the latents do."""

    def __call__(self, latents: Tensor) -> Tensor:
        """Raises ModelError where VAE and vocoder cannot be used as those of StableAudio or AudioLDM."""
        try:
            wave = self._decode(latents.to(find_device(self.pipe, self._vae)))
        except Exception as cause:
            if is_out_of_memory(cause):
                raise
            raise ModelError(
                f"latents of shape {tuple(latents.shape[1:])} cannot be decoded with the "
                f"{type(self.pipe.vae).__name__} of {type(self.pipe).__name__} as sounds ({type(cause).__name__}: "
                f"{cause}); give from_pipeline decode=, a function of latents (R, ...) that returns (R, ...)"
            ) from cause
        rate = self._rate
        return raise_precision(wave[..., int(self.start * rate) : None if self.end is None else int(self.end * rate)])

    @functools.cached_property
    def _vae(self) -> Any:
        return copy_vae(self.pipe.vae)

    @property
    def _rate(self) -> int:
        """Samples for each second."""
        return (self.pipe.vocoder if self._speaks else self.pipe.vae).config.sampling_rate

    @property
    def _speaks(self) -> bool:
        """Whether the VAE makes spectrograms, of which a vocoder makes the sound."""
        return hasattr(self.pipe, "mel_spectrogram_to_waveform")

    def _decode(self, latents: Tensor) -> Tensor:
        scaled = (latents / (getattr(self._vae.config, "scaling_factor", None) or 1.0)).to(self._vae.dtype)
        decoded = self._vae.decode(scaled).sample
        return self.pipe.mel_spectrogram_to_waveform(decoded).to(latents.device) if self._speaks else decoded


def sounds_of(pipe: Any, call: Mapping[str, Any]) -> Sounds | None:
    """How a `call` of `pipe` makes sounds of its latents; None for pipelines that make none."""
    if hasattr(pipe, "mel_spectrogram_to_waveform"):
        return Sounds(pipe, 0.0, call.get("audio_length_in_s"))
    if type(getattr(pipe, "vae", None)).__name__ == "AutoencoderOobleck":
        return Sounds(pipe, call.get("audio_start_in_s") or 0.0, call.get("audio_end_in_s"))
    return None
