"""OR-Tools CP-SAT: every kind of limit, for small instances."""
