"""Proposals of prompts: the laws that tokens are drawn from, and what joins them in one batch."""

from feynkac.models.language.proposals.plain import MASKED, Drafted, Masked, Tempered, draw_and_weigh

__all__ = ["MASKED", "Drafted", "Masked", "Tempered", "draw_and_weigh"]
