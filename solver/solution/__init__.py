"""Results: solutions, plans and explanations."""
