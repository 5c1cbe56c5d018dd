"""Grammars of whole languages, each in a file beside this one."""
