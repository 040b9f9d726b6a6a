"""Experiments on world models; each module is a command.

On recorded datasets: ``forms`` and ``forms_curves`` (reveal scheme and action path), ``lean`` (network sizes), ``ends``
(termination prediction), ``spread`` (calibration), ``growth`` (team size), ``repartition`` (the same data for other
teams). Against closed forms: ``linear_gaussian`` with ``elbo``. Returns of scripted policies: ``scripted``. Runs that
are killed and resumed: ``kill``.
"""
