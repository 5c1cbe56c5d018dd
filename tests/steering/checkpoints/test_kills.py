"""A process that is killed at any moment leaves a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cases import set_tiny_lm, with_regex
from resumed import assert_same

import feynkac as fk


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_goes_on(seed: int, tiny_lm, tmp_path: Path) -> None:
    set_tiny_lm(tiny_lm)
    path, script = tmp_path / "run", Path(__file__).with_name("killed.py")
    child = subprocess.Popen([sys.executable, "-P", str(script), str(path)], stderr=subprocess.PIPE)
    try:
        while not path.exists() and child.poll() is None:
            time.sleep(0.005)
        assert path.exists(), child.communicate()[1].decode()
        time.sleep(float(np.random.default_rng(seed).uniform(0.0, 0.4)))
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert_same(fk.resume(path, *with_regex()), fk.steer(*with_regex(), particles=16, seed=5))
