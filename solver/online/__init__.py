"""One agent at a time at the quality of a whole batch: prices of the recent window, and tables over occupancy."""
