"""A classifier as a critic at every step (genlm-control's docs/getting_started.md; here the classifier is VADER)."""

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

import feynkac as fk

lm = fk.CausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct")
analyzer = SentimentIntensityAnalyzer()
positive = fk.reward(lambda text: analyzer.polarity_scores(text)["compound"], every="token")
prompt = lm.prompt("Montreal is", temperature=0.5, stop=".", max_tokens=25)
posterior = fk.steer(prompt, positive, fk.regex(r" the (best|worst).*"), particles=5).posterior()
