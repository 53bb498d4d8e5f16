"""What is done about load: scaling rules, alerts and where they are sent."""
