"""Constraints that mask tokens: by pattern, by count, by grammar."""
