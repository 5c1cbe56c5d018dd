"""Constraints by incremental parsers of a user's own."""
