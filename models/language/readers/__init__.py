"""Prompts that read the texts of other prompts, and tell what they think of them."""
