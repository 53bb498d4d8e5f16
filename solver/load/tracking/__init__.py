"""The parts of a load tracker, by what they answer: capacities, stops, leases, loads, outcomes."""
