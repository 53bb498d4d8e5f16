"""What came out: solutions, plans and explanations."""
