"""The live side: the only package with state and locks."""
