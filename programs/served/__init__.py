"""Served models in programs: contexts that grow by whole pieces of text."""

from feynkac.programs.served.context import ServedContext

__all__ = ["ServedContext"]
