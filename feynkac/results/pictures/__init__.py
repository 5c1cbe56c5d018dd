"""Pictures of a result, drawn by matplotlib (the extra `plot`): see `feynkac.Result.plot`."""

from feynkac.results.pictures.figure import picture

__all__ = ["picture"]
