"""Functions of the sample as potentials: how they are called, scaled and folded."""
