"""Which model serves which agent under live load."""
