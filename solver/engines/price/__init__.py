"""Price engine: the exact optimum of large slot instances from the prices of a sample."""
