"""Twists: guesses of what is to come, that lead the way to hard targets and have no part in them."""

from feynkac.potentials.twists.chains import TokenChain
from feynkac.potentials.twists.markov import MarkovLevel, MarkovTwist

__all__ = ["MarkovLevel", "MarkovTwist", "TokenChain"]
