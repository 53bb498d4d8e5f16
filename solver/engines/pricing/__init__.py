"""The parts of the price engine: supply, sampled rows, contested arcs, smoothed prices, the boxed flow."""
