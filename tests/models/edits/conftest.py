"""Lets the tests of this folder import each other, and the tiny models of the language tests."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "language")]
