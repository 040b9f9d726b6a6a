"""Multi-agent MuJoCo on Gymnasium's v5 tasks.

Read ``env.py`` first (the PettingZoo environment), then ``partitions.py`` (which agent has which actuators) and
``observations.py`` (full or local observations, names of state features).
"""
