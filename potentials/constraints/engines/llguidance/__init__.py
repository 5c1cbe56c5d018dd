"""The automaton of a schema or a grammar, by llguidance."""
