"""The product of two prompts (genlm-control's docs/getting_started.md)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


@fk.program
def product(p):
    first, second = (lm.context(prompt, temperature=0.5) for prompt in ("Montreal is", "Boston is"))
    while not first.ended and "." not in str(first) and len(first) < 25:
        p.observe(second.next_token(), p.sample(first.next_token()))
    return str(first)


posterior = fk.steer(product(), particles=5).posterior()
