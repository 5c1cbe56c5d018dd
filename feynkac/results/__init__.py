"""What a run gives back, and pictures of it."""
