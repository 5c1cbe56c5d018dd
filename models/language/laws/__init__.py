"""The laws of prompts: what stands between logits and probabilities."""

from feynkac.models.language.laws.law import PLAIN, Law, Processor, read_law, shape

__all__ = ["PLAIN", "Law", "Processor", "read_law", "shape"]
