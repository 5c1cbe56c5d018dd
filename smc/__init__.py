"""The engine: particles and weights, and nothing of text or images."""
