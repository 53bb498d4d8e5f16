"""What was observed: latency and success feedback, trends, metrics."""
