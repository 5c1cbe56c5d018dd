"""No letter e (LLaMPPL's README)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


@fk.program(max_tokens=200)
def no_letter(p, prompt, letter):
    text = lm.context(prompt)
    while not text.ended and text.tokens[-1:] not in (["."], ["!"], ["?"]):
        token = p.sample(text.next_token())
        p.condition(letter not in token)
    return str(text)


result = fk.steer(no_letter("The weather today is expected to be", "e"), particles=5, algorithm="beam")
