"""Contexts of a Hugging Face model: the shared cache, the plain one, and the check that decides between them."""
