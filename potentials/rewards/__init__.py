"""Functions of the sample as potentials: called, scaled, folded."""
