"""This process and this machine: device and memory, randomness, child processes, signals, progress.

Read ``device`` (where tensors live, in which precision), ``rng`` (random state), ``fork`` (jobs in child processes,
with ``failure`` for their exceptions), ``cuda_graph``, then ``signals``, ``progress`` and ``summary`` (what a run
prints), ``notebook`` and ``cards`` (the same in notebooks), ``machine`` and ``provenance`` (what a run records about
where it was made).
"""
