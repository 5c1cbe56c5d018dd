"""Context-free grammars over bytes, by an Earley parser of our own."""
