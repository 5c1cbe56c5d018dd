"""What the exact tests compare with is used here, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "exact"))
