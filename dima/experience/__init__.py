"""Real experience: collected, evaluated, stored.

Read ``episodes`` first: ``play`` steps a policy in environments and returns whole episodes. ``collector`` does so for
a training run, ``evaluation`` scores policies, ``team`` lets one act in the environment's own spaces. ``replay``
stores episodes for world models, ``transitions`` single steps for off-policy learners.
"""
