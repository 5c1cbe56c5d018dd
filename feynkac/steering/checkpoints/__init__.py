"""Runs that are saved on their way, and gone on with in another process."""
