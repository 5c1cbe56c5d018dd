"""What `feynkac.check` looks at, one module for each kind of mistake."""
