"""genlm-control's side: reads what to run from standard input, in an environment that has it and no feynkac.

python awrs.py MODEL FOLDER      # of the tokenizer, and of the recorded laws
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from genlm.backend.llm.base import AsyncLM
from genlm.control import AWRS, Potential, PromptedLLM
from tables import CHECKS, LIMIT, Check, Table
from transformers import AutoTokenizer


class Recorded(AsyncLM):
    """A language model that looks its laws up behind the `behind` tokens of the prompt."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.table: Any = None
        self.behind = 0

    def next_token_logprobs_sync(self, token_ids: Any, lora_name: Any = None) -> Any:
        return self._find([token_ids])[0]

    async def next_token_logprobs(self, token_ids: Any, lora_name: Any = None) -> Any:
        return self._find([token_ids])[0]

    async def batch_next_token_logprobs(self, token_ids_list: Any, lora_name: Any = None) -> Any:
        return self._find(token_ids_list)

    def _find(self, texts: Any) -> Any:
        found = torch.from_numpy(self.table.find([text[self.behind :] for text in texts]))
        began = time.process_time()
        found = torch.log_softmax(found, dim=-1)
        self.table.seconds += time.process_time() - began
        return found


class Asked(Potential):
    """A check as a potential over bytes."""

    def __init__(self, check: Check) -> None:
        super().__init__(list(range(256)))
        self.check = check

    async def prefix(self, context: Any) -> float:
        return 0.0 if self.check.prefix(bytes(context).decode("utf-8", "ignore")) else -math.inf

    async def complete(self, context: Any) -> float:
        return 0.0 if self.check.complete(bytes(context).decode("utf-8", "ignore")) else -math.inf


def spell(context: Any) -> str:
    """The text of a particle's tokens, without the end."""
    pieces = (token for token in context if isinstance(getattr(token, "byte_string", token), bytes))
    return b"".join(map(bytes, pieces)).decode("utf-8", "replace")


def main() -> None:
    """Answer each line [check, particles] by one [seconds, calls, texts, log evidence]."""
    torch.set_num_threads(1)
    model = Recorded(AutoTokenizer.from_pretrained(sys.argv[1]))
    llm = PromptedLLM(model)
    known: dict[str, Any] = {}
    for line in sys.stdin:
        name, particles = json.loads(line)
        llm.set_prompt_from_str(CHECKS[name][0])
        if name not in known:
            check = Check(name)
            known[name] = Table(Path(sys.argv[2]), name), check, AWRS(llm, Asked(check).coerce(llm, f=b"".join))
        table, check, sampler = known[name]
        model.table, model.behind, check.calls, table.seconds = table, len(llm.prompt_ids), 0, 0.0
        began = time.process_time()
        result = asyncio.run(sampler.smc(n_particles=particles, ess_threshold=0.5, max_tokens=LIMIT))
        seconds = time.process_time() - began - table.seconds
        print(json.dumps([seconds, check.calls, [*map(spell, result.contexts)], float(result.log_ml)]), flush=True)


if __name__ == "__main__":
    main()
