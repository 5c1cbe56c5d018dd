"""Packages that come with an extra of feynkac: where one is missing, the error says which to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from feynkac.base.errors import MissingExtra


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """The imports below need the packages of `extra`; `what` says who needs them, as in "pictures need matplotlib".

        with needing("plot", "pictures are drawn by matplotlib"):
            from matplotlib.figure import Figure

    Raises MissingExtra where one is missing, and where one is there that cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as cause:
        raise MissingExtra(f"{what}: pip install 'feynkac[{extra}]' ({cause})") from cause
    except ImportError as cause:
        raise MissingExtra(
            f"{what}, which is installed and cannot be imported ({cause}); install it anew: "
            f"pip install --force-reinstall 'feynkac[{extra}]'"
        ) from cause
