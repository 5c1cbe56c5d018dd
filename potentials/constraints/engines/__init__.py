"""Constraint engines for what needs a stack, each behind the protocol `TokenAutomaton`."""
