"""Dexterous tasks for two Shadow Hands on MuJoCo, a port of Bi-DexHands (Chen et al., 2022).

Read ``tasks.py`` first (what differs between the tasks), then ``scene.py`` (the simulated world, of ``hand.py`` and
``objects.py``), ``rewards.py``, ``observation.py`` and ``env.py`` (the PettingZoo environment; ``noise.py`` varies its
start). ``coordinates.py`` recovers the simulator's coordinates from states, for pictures.

Observations, actions, rewards and failures are the original's. The simulator, contacts and shapes of objects are not
(MuJoCo instead of Isaac Gym, primitive shapes instead of scanned meshes): compare methods within these tasks, never
with published returns.
"""
