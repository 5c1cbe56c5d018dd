"""Causal language models, with one key-value cache for all particles."""
