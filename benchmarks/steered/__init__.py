"""The parts of `benchmarks/diffusion.py`."""
