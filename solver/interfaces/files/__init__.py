"""Problem files, tables and results: everything that is read from and written to disk."""
