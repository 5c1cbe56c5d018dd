"""Finite automata over characters, compiled to tokens."""
