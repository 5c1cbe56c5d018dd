"""Where a call of `steer` runs: cut into pieces, here or on many machines.

Nothing is imported here: workers are started from `ray_worker` alone.
"""
