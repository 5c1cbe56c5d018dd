"""Gaps of random length between given words (LLaMPPL's examples/infilling.py)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


@fk.program
def infilling(p, given):
    text = lm.context(given[0])
    for piece in given[1:]:
        p.sample(text.gen(max_tokens=p.sample(fk.Geometric(0.5))))
        p.condition(not text.ended)
        text.observe_text(piece)
    p.observe(text.next_token(), text.eos)
    return given[0] + str(text)


result = fk.steer(infilling(["Well, you see, every", " he", " to", " another", "!"]), particles=8)
