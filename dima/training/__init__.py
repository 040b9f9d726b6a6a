"""Training: the configuration of a run, and the loop that carries it out.

Read ``run_config`` (every setting of a run), ``loop`` (learn, evaluate, log, save; ``guards`` beside it), ``online``
(``train`` in the environment, ``resume`` any run), ``offline`` (``fit`` a world model to a dataset) with
``validation`` (held-out error), and ``multi_seed`` (several seeds in parallel). ``api`` has these functions as Python
calls them, with ``factories`` (tasks given as classes), ``run`` (what they return) and ``callbacks`` (the user's own
code beside the loop). ``notices`` holds what a run says besides its progress, ``proposal`` a first run for a checked
environment; ``old_names`` translates the configs of earlier versions.
"""
