"""Run the cases, save what came of them, and write the tables.

    make bench-peers                                     # all of it, some 35 minutes on 2 quiet cores
    make bench-peers TASKS=no_e,json PEERS=feynkac,genlm
    python benchmarks/peers --report                     # tables and picture from what was saved

TASKS are names of tasks or of cases (`--list`). Peers that are not installed are left out (`make peers`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a folder
    sys.path[0] = str(Path(__file__).parents[1])

from peers.cases import Case, make_cases
from peers.laws import PROMPT
from peers.machine import describe_machine
from peers.processes import Process, start
from peers.registry import PEERS
from peers.report import show_case, write_report
from peers.rounds import play

RESULTS = Path(__file__).parent / "results"


def choose(cases: Iterable[Case], tasks: str) -> list[Case]:
    """The cases of some tasks, or with some names, apart by commas; all where none is named."""
    named = [name for name in tasks.split(",") if name]
    return [case for case in cases if not named or case.task in named or case.name in named]


def choose_peers(names: str) -> list[str]:
    """The peers that are named, apart by commas, and can run here."""
    wanted = [name for name in names.split(",") if name] or list(PEERS)
    if unknown := set(wanted) - set(PEERS):
        raise SystemExit(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    found = []
    for name in wanted:
        if problem := PEERS[name].find():
            print(f"{name} is left out: {problem}", flush=True)
        else:
            found.append(name)
    return found


def make_prompt(tokenizer: Any, length: int) -> str:
    """A text of `length` tokens."""
    ids = tokenizer(PROMPT * (length // 40 + 1))["input_ids"][:length]
    text = tokenizer.decode(ids)
    if tokenizer(text)["input_ids"] != ids:
        raise SystemExit(f"the prompt of {length} tokens does not read back as it was written: choose another length")
    return text


def save(file: Path, rows: list[dict[str, Any]], cases: list[Case], threads: int) -> None:
    """Rows of cases that were run before are replaced, all others are kept."""
    old = json.loads(file.read_text()) if file.exists() else {"cases": {}, "rows": []}
    again = {(row["case"], row["peer"]) for row in rows}
    kept = [row for row in old["rows"] if (row["case"], row["peer"]) not in again]
    described = {case.name: vars(case) | {"peers": list(case.peers)} for case in cases}
    told = {"machine": describe_machine(threads), "cases": old["cases"] | described, "rows": kept + rows}
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(told, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="", help="names apart by commas; all by default")
    parser.add_argument("--peers", default="", help="names apart by commas; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for loading, and for each run")
    parser.add_argument("--small", action="store_true", help="few particles and tokens, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument("--report", action="store_true", help="write tables and picture, and run nothing")
    parser.add_argument("--list", action="store_true", help="print the names of cases and peers")
    options = parser.parse_args()
    cases = choose(make_cases(), options.tasks)
    if options.list:
        return print("\n".join([*(case.name for case in cases), "", *PEERS]))
    if not options.report:
        run([case.shrink() for case in cases] if options.small else cases, options)
    if not options.small:
        write_report(options.results)


def run(cases: list[Case], options: argparse.Namespace) -> None:
    """Play the cases; what is done is saved after each."""
    from transformers import AutoTokenizer

    from feynkac.models.language.demo import demo_model_path

    path, peers, rows = demo_model_path(), choose_peers(options.peers), list[dict[str, Any]]()
    tokenizer = AutoTokenizer.from_pretrained(path)
    file = options.results.with_name("small.json") if options.small else options.results

    def begin(peer: str, case: Case) -> Process:
        prompt = make_prompt(tokenizer, case.prompt)
        return start(peer, case, model=str(path), prompt=prompt, threads=options.threads, limit=options.limit)

    for case in cases:
        found = play(case, [peer for peer in peers if peer in case.peers], begin)
        print(show_case(case, found), flush=True)
        rows += found
        save(file, rows, cases, options.threads)


if __name__ == "__main__":
    main()
