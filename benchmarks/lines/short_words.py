"""Words of at most five letters (LLaMPPL's examples/hard_constraints.py)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")


words = fk.regex(r"[^A-Za-z\n]*([A-Za-z]{1,5}[^A-Za-z\n]+)*([A-Za-z]{1,5})?")
result = fk.steer(lm.prompt("3 things to watch\n\n1.", max_tokens=50), words, particles=20)
