"""What is asked: ids, units, validation, and the arrays engines see."""
