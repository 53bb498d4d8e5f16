"""The live side: the only room with state and locks."""
