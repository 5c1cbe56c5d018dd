"""Ways to steer a small model to a behaviour, on one footing: what each gains, and what it pays in nats.

Two behaviours (sentiment by VADER, French by its words), each with a text and a chat; prompts, vectors, features,
attention, contrasts, choosing among many, and SMC with the reward. All are laws of texts here, so that KL to the base
is known for each, and beside it the least that the same reward could cost. What the rows are is in `steering.md`.

    python benchmarks/steering.py                        # both behaviours; prints the tables at the end
    python benchmarks/steering.py --only French          # one of them
    python benchmarks/steering.py --quick                # few texts of one prompt each, to see that it works
    python benchmarks/steering.py --report               # tables and picture from what was saved
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from behaviours.methods import fit, list_corpus, list_prompts, list_targets
from behaviours.proposals import compare_proposals
from behaviours.report import report
from behaviours.texts import BEHAVIOURS, MAX_TOKENS, Behaviour

import feynkac as fk

HERE = Path(__file__).parent / "behaviours"
PICTURE = HERE.parents[1] / "docs" / "steering.png"
CORPUS = 160
PARTS = {"targets": (list_targets, 60), "prompts": (list_prompts, 40)}
"""What makes laws of a question, and how many texts of each are drawn for every 40 asked for."""
RUNS, PARTICLES = 24, 24
"""Of the comparison of proposals."""


def measure(lm: Any, behaviour: Behaviour, texts: int, questions: int, folder: Path) -> None:
    """Rulers of all laws, one of prompts and one of targets for each question, written as soon as they are there."""
    began = time.perf_counter()
    fitted = fit(lm, behaviour, list_corpus(CORPUS))
    model = Path(lm.model.config.name_or_path).name
    notes = {"model": model, "tokens": MAX_TOKENS, "texts": texts, **fitted.notes,
             "python": sys.version.split()[0], "torch": torch.__version__, "machine": platform.machine(),
             "threads": torch.get_num_threads(), "seconds to fit": round(time.perf_counter() - began, 1)}  # fmt: skip
    print(behaviour.name, notes, flush=True)
    for i, question in enumerate(behaviour.questions[:questions]):
        for part, (make, n) in PARTS.items():
            ruler = fk.ruler(question.ask(lm), make(lm, behaviour, question, fitted), behaviour.reward,
                             texts=n * texts // 40, seed=i)  # fmt: skip
            ruler.to_json(folder / f"{behaviour.name}_{i}_{part}.json")
            print(f"\n{behaviour.name}: {question.text}\n{ruler.table()}", flush=True)
            notes["seconds"] = round(time.perf_counter() - began)
            (folder / f"{behaviour.name}.json").write_text(json.dumps(notes) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=BEHAVIOURS)
    parser.add_argument("--model", help="another than SmolLM2-135M-Instruct: a hub id or a folder")
    parser.add_argument("--texts", type=int, default=40, help="of each law and question, at least 20")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--proposals", action="store_true", help="the comparison of proposals alone")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--folder", type=Path, default=HERE / "measured")
    given = parser.parse_args()
    if given.quick and given.folder == HERE / "measured":
        given.folder = HERE / "tried"
    given.folder.mkdir(exist_ok=True)
    if not given.report:
        from feynkac.models.language.demo import demo_model_path

        lm = fk.CausalLM.from_pretrained(given.model or str(demo_model_path()))
        if not given.proposals:
            for behaviour in BEHAVIOURS.values():
                if given.only in (None, behaviour.name):
                    texts, questions = (20, 1) if given.quick else (given.texts, len(behaviour.questions))
                    measure(lm, behaviour, texts, questions, given.folder)
        if given.only in (None, "sentiment"):
            found = compare_proposals(lm, BEHAVIOURS["sentiment"], 4 if given.quick else RUNS, PARTICLES)
            (given.folder / "proposals.json").write_text(json.dumps(found, indent=1) + "\n")
    if given.report or not (given.only or given.proposals):
        report(given.folder, given.folder / PICTURE.name if given.quick else PICTURE)


if __name__ == "__main__":
    main()
