"""Constraint engines of other libraries, each behind the protocol `TokenAutomaton`."""
