"""Draws from next-token laws: all particles at once, under masks, or checked token by token."""
