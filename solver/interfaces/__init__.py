"""The only packages that touch the world: files, terminal, network."""
