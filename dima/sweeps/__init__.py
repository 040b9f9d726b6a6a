"""Sweeps: tasks x algorithms x presets x settings x seeds, and searches of settings, from one file.

Read ``spec`` (what a file may say) with ``space`` (ranges of a search), ``plan`` (the runs it stands for, and everything
that is checked before one starts) with ``names`` (their folders), ``search`` (Optuna) with
``trials`` (its file), ``agenda``
(what is next, what became of it), ``process`` (a run in a process of its own), the two ways of carrying it out,
``serial`` and ``ray_tune``, and ``run``, the public function.
"""
