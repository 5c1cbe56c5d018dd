"""The parts of `benchmarks/steering.py`."""
