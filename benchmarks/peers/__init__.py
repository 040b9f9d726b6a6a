"""Other implementations: ``harl`` (returns in our environments), ``*_speed`` (time of an iteration beside ours)."""
