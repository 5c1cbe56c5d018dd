"""What a prompt is asked for by, and how it becomes tokens."""
