"""A process that saves a run after every step, slowly, and is killed on the way: `python killed.py PATH`."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main(path: str) -> None:
    sys.path.insert(0, str(HERE))
    found = importlib.util.spec_from_file_location("models", HERE.parents[1] / "conftest.py")
    assert found is not None and found.loader is not None
    models = importlib.util.module_from_spec(found)
    found.loader.exec_module(models)
    import cases

    import feynkac as fk

    cases.set_tiny_lm(models._tiny_lm)
    checkpoint = fk.Checkpoint(path, every=1)
    fk.steer(
        *cases.with_regex(), particles=16, seed=5, checkpoint=checkpoint, observers=[lambda step: time.sleep(0.02)]
    )


if __name__ == "__main__":
    main(sys.argv[1])
