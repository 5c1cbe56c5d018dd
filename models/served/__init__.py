"""Language models that somebody else serves: whole pieces of text, drawn over HTTP."""

from feynkac.models.served.served_lm import ServedLM

__all__ = ["ServedLM"]
