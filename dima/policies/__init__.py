"""Policies and value functions: networks only, without an update rule.

``actors.py`` turns observations into the ``distributions.py`` of PPO's actions, ``critics.py`` values the global state;
``soft_actors.py`` holds HASAC's reparametrised actors and twin Q-networks. All of them take padded arrays, and padding
affects nothing. Settings and differences from HARL: docs/reference/baselines.md.
"""
