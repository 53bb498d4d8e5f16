"""Commands that measure the engines, with peers in the same run."""
