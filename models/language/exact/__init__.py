"""Exact answers of prompts: every allowed text, and the scores of given ones."""
