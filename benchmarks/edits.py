"""What do edits of a model cost?

One step of steering under each kind of edit, against the same step of the model itself; base and edited prompts in one
run against one of them; and the same vector with repeng and with steering-vectors, which run `model.generate`. Settings
are interleaved in one process, medians taken, processor time counted. One line of JSON follows the table.

    python benchmarks/edits.py                          # three minutes on 2 cores
    python benchmarks/edits.py --peer PYTHON            # an interpreter that has repeng and steering-vectors
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENS = 24
TEXT = "The new restaurant in our street"
LAYER, STRENGTH = 14, 22.0


def make_vector(width: int) -> Any:
    """A direction of length 1, the same here and in the peers' process."""
    import torch

    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    return vector / vector.norm()


def list_edits(lm: Any) -> dict[str, Any]:
    """The model itself, and one model for each kind of edit."""
    import torch

    from feynkac.models.edits import Add, Clamp, Emphasise, ProjectOut

    width = lm.model.config.hidden_size
    vector = make_vector(width)

    class Dictionary:
        rows = torch.nn.functional.normalize(torch.randn(4 * width, width), dim=1)

        def encode(self, x: Any) -> Any:
            return (x @ self.rows.T).relu()

        def decode(self, feature_acts: Any) -> Any:
            return feature_acts @ self.rows

    return {
        "itself": lm,
        "a vector at one layer": lm.edited(Add(vector, layer=LAYER, strength=STRENGTH)),
        "a vector at all layers": lm.edited(Add(vector, layer=range(lm.model.config.num_hidden_layers))),
        "a direction taken out everywhere": lm.edited(
            ProjectOut(vector, layer=range(lm.model.config.num_hidden_layers), scope="all")
        ),
        "a part of the prompt emphasised": lm.edited(Emphasise("restaurant", alpha=0.1)),
        "a feature of 2,304 clamped": lm.edited(Clamp(Dictionary(), {5: 3.0}, layer=LAYER)),
    }


def time_run(tasks: Any, particles: int, seed: int) -> float:
    """Processor seconds a step, the prompt's pass apart."""
    import feynkac as fk

    times: list[float] = []
    fk.steer(
        tasks, fk.length(min=TOKENS, unit="token"), particles=particles, seed=seed, progress=False,
        observers=[lambda step: times.append(time.process_time())],
    )  # fmt: skip
    return (times[-1] - times[0]) / (len(times) - 1)


def measure(settings: dict[str, Callable[[int], float]], rounds: int) -> dict[str, float]:
    """Medians, the settings in turns."""
    found: dict[str, list[float]] = {name: [] for name in settings}
    for run in settings.values():
        run(0)  # warm
    for seed in range(1, rounds + 1):
        for name, run in settings.items():
            found[name].append(run(seed))
    return {name: statistics.median(times) for name, times in found.items()}


def measure_steps(lm: Any, particles: int, rounds: int) -> dict[str, float]:
    """Processor seconds a step under each edit."""
    prompts = {name: model.prompt(TEXT, max_tokens=TOKENS) for name, model in list_edits(lm).items()}
    settings = {name: (lambda seed, task=task: time_run(task, particles, seed)) for name, task in prompts.items()}
    both = [prompts["itself"], prompts["a vector at one layer"]]
    settings["base and edited in one run"] = lambda seed: time_run(both, particles, seed)
    return measure(settings, rounds)


def measure_peers(lm: Any, peer: str, particles: int, rounds: int) -> dict[str, float]:
    """Seconds a token of ours and of the peers, in turns, at two lengths of the prompt."""
    import feynkac as fk
    from feynkac.models.edits import Add
    from feynkac.models.language.demo import demo_model_path

    found: dict[str, list[float]] = {}
    edited = lm.edited(Add(make_vector(lm.model.config.hidden_size), layer=LAYER, strength=STRENGTH, scope="all"))
    for words in (1, 80):
        prompt = " ".join([TEXT + "."] * words)
        for seed in range(rounds + 1):
            began = time.perf_counter()
            fk.steer(
                edited.prompt(prompt, max_tokens=TOKENS), fk.length(min=TOKENS, unit="token"), particles=particles,
                seed=seed, progress=False,
            )  # fmt: skip
            ours = (time.perf_counter() - began) / (particles * TOKENS)
            given = json.dumps([str(demo_model_path()), prompt, particles, TOKENS, LAYER, STRENGTH])
            out = subprocess.run([peer, __file__, "--as-peer", given], capture_output=True, text=True, check=True)
            if seed:
                for name, seconds in {"feynkac": ours, **json.loads(out.stdout.splitlines()[-1])}.items():
                    found.setdefault(f"{name}, prompt of {len(lm.begin(prompt))} tokens", []).append(seconds)
    return {name: statistics.median(times) for name, times in found.items()}


def run_as_peer(given: str) -> None:
    """In the peers' process: seconds a token of repeng and of steering-vectors."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path, prompt, particles, tokens, layer, strength = json.loads(given)
    tokenizer = AutoTokenizer.from_pretrained(path)
    found: dict[str, float] = {}

    def generate(model: Any) -> float:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        began = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=tokens,
                min_new_tokens=tokens, num_return_sequences=particles, pad_token_id=0,
            )  # fmt: skip
        return (time.perf_counter() - began) / (particles * tokens)

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    vector = make_vector(model.config.hidden_size)
    from steering_vectors import SteeringVector

    with SteeringVector({layer: vector}, "decoder_block").apply(model, multiplier=strength):
        generate(model)
        found["steering-vectors"] = generate(model)
    np.float64 = np.float64  # repeng 0.4 asks for it, and numpy 2 has dropped it
    from repeng import ControlModel, ControlVector

    control = ControlModel(model, [layer])
    control.set_control(ControlVector("llama", {layer: vector.numpy()}), strength)
    generate(control)
    found["repeng"] = generate(control)
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", help="an interpreter that has repeng and steering-vectors")
    parser.add_argument("--as-peer", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.as_peer:
        run_as_peer(given.as_peer)
        return
    import torch

    from feynkac.models.language.demo import demo_model_path
    from feynkac.models.language.lm import CausalLM

    lm = CausalLM.from_pretrained(str(demo_model_path()))
    steps = measure_steps(lm, given.particles, given.rounds)
    print(f"{'one step, N = ' + str(given.particles):40}{'ms':>8}{'ratio':>8}")
    for name, seconds in steps.items():
        print(f"{name:40}{1e3 * seconds:8.1f}{seconds / steps['itself']:8.2f}")
    peers = measure_peers(lm, given.peer, given.particles, given.rounds) if given.peer else {}
    for name, seconds in peers.items():
        print(f"{name:60}{1e3 * seconds:8.2f} ms a token")
    machine = {"python": sys.version.split()[0], "torch": torch.__version__, "machine": platform.machine(),
               "threads": torch.get_num_threads()}  # fmt: skip
    print(json.dumps({"file": Path(__file__).name, "steps": steps, "peers": peers, **machine}))


if __name__ == "__main__":
    main()
