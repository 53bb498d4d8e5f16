"""The HTTP service: decisions, batches, live load and control over the network, and a page that shows it all."""
