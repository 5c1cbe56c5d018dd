"""The bytes of every token."""
