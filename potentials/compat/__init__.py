"""Potentials of other libraries."""
