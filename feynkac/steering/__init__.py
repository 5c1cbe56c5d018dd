"""The call that steers: `steer`, its algorithms, and what it records of a run."""
