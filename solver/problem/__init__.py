"""The problem: ids, units, validation, and the arrays that engines read."""
