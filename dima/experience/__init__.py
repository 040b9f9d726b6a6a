"""Real experience: collected, evaluated, stored.

Read ``collector.py`` first: ``play`` steps a policy in environments and returns episodes, ``Collector`` does so for a
training run. ``evaluation.py`` scores policies. ``replay.py`` stores whole episodes for world models,
``transitions.py`` single steps for off-policy learners.
"""
