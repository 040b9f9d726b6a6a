"""The parts a run folder is made of, each safe against a crash at any moment."""
