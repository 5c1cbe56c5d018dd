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
from tables import CHECKS, Check, Table
from transformers import AutoTokenizer


class Recorded(AsyncLM):
    """A language model that looks its laws up behind the `behind` tokens of the prompt, and counts the seconds."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.table: Any = None
        self.behind, self.seconds = 0, 0.0

    def next_token_logprobs_sync(self, token_ids: Any, lora_name: Any = None) -> Any:
        return self._find([token_ids])[0]

    async def next_token_logprobs(self, token_ids: Any, lora_name: Any = None) -> Any:
        return self._find([token_ids])[0]

    async def batch_next_token_logprobs(self, token_ids_list: Any, lora_name: Any = None) -> Any:
        return self._find(token_ids_list)

    def _find(self, texts: Any) -> Any:
        began = time.process_time()
        rows = [self.table.rows[tuple(text[self.behind :])] for text in texts]
        found = torch.log_softmax(torch.from_numpy(self.table.logits[rows]), dim=-1)
        self.seconds += time.process_time() - began
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


async def draw(sampler: Any, contexts: Any) -> list[Any]:
    """The draws of all particles, as its SMC asks for them."""
    return await asyncio.gather(*[sampler.sample(context) for context in contexts])


def main() -> None:
    """Answer each line [check, particles, seed] by one [seconds, calls, weights]."""
    torch.set_num_threads(1)
    model = Recorded(AutoTokenizer.from_pretrained(sys.argv[1]))
    llm = PromptedLLM(model)
    known: dict[str, Any] = {}
    for line in sys.stdin:
        name, particles, seed = json.loads(line)
        llm.set_prompt_from_str(CHECKS[name][0])
        if name not in known:
            check = Check(name)
            known[name] = Table(Path(sys.argv[2]), name), check, AWRS(llm, Asked(check).coerce(llm, f=b"".join))
        table, check, sampler = known[name]
        contexts = [llm.decode_tokens(table.contexts[i]) for i in table.choose(particles, seed)]
        model.table, model.behind, model.seconds, check.calls = table, len(llm.prompt_ids), 0.0, 0
        began = time.process_time()
        drawn = asyncio.run(draw(sampler, contexts))
        seconds = time.process_time() - began - model.seconds
        print(json.dumps([seconds, check.calls, [math.exp(each[1]) for each in drawn]]), flush=True)


if __name__ == "__main__":
    main()
