"""Sweeps: tasks x algorithms x presets x settings x seeds, and searches of settings, from one file.

Read ``spec`` (what a file may say) with ``space`` (ranges of a search), ``plan`` (the runs it stands for, all checked
before one starts) with ``names`` (of their folders) and ``existing`` (what these hold), ``search`` (Optuna) with
``trials`` (its file), ``process`` (a run in a process of its own), ``unit`` (runs that belong together), ``agenda``
(what is next, what became of it), the two ways of carrying it out, ``serial`` and ``ray_tune`` with
``ray_cluster``, and ``run``, the public function; ``progress`` displays it, ``results`` sums it up.
"""
