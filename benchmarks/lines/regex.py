"""A regular expression (genlm-control's README)."""

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
opinion = fk.regex(r" SMC is (🔥🔥|😍😍|🤌🤌) with LMs")
posterior = fk.steer(lm.prompt("Here is my honest opinion:", max_tokens=30), opinion, particles=10).posterior()
