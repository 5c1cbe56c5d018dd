"""The referee: the same tasks in feynkac and in every peer that can do them, on the same model files."""
