"""Next-token laws of SmolLM2, recorded: a language model that costs nothing, for this library and for genlm-control."""
