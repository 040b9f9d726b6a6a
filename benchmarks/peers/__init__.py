"""Other implementations in our environments: ``harl`` (returns), ``harl_speed`` (time of an iteration)."""
