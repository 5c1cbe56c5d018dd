"""A text that fits two prompts (LLaMPPL's examples/prompt_intersection.py)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


@fk.program
def intersection(p, prompts, max_tokens=20):
    first, *others = map(lm.context, prompts)
    while not first.ended and len(first) < max_tokens:
        token = p.sample(first.next_token())
        for other in others:
            p.observe(other.next_token(), token)
    return str(first)


result = fk.steer(intersection(["My favorite writer is probably", "My favorite physicist is probably"]), particles=5)
