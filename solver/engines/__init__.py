"""The engines: arrays in, arrays out; no ids, no files, no logging, no state."""
