"""Lines of 5, 7 and 5 syllables (LLaMPPL's examples/haiku.py)."""

import pronouncing

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


def syllables(word):
    phones = pronouncing.phones_for_word(word.strip(" .,;:!?").lower())
    return pronouncing.syllable_count(phones[0]) if phones else 100


@fk.program
def haiku(p, prompt, lines=(5, 7, 5)):
    text = lm.context(prompt)
    for left in lines:
        while left > 0:
            left -= syllables(p.sample(text.gen(unit="word", max_tokens=6)))
        p.condition(left == 0)
        text.observe_text("\n")
    return str(text)


result = fk.steer(haiku("The old silent pond\nA frog jumps into the pond\nSplash! Silence again\n\n"), particles=20)
