"""Traffic replayed against routing policies on a simulated fleet: who would have been served when, and how well."""
