"""A small maze, a diffusion policy for it, and a value function: `train/maze.py` trains both."""
