"""Plain sampling up to the end of a sentence (genlm-control's docs/getting_started.md)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
result = fk.steer(lm.prompt("Montreal is", temperature=0.5, stop=".", max_tokens=25), particles=5)
posterior = result.posterior()
