"""Multi-agent MuJoCo on Gymnasium's v5 tasks.

Read ``env.py`` first (the PettingZoo environment), then ``partitions.py`` (which agent has which actuators),
``observations.py`` (full or local observations, names of state features) and ``coordinates.py`` (a state's ``qpos`` and
``qvel``).
"""
