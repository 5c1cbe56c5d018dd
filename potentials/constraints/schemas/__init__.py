"""JSON schemas: what they say, what of it can be masked, and what is checked on whole texts."""
