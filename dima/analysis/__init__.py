"""Analysis of finished and running runs, for people: pages, plots and the numbers behind them.

``html`` builds self-contained pages. ``imagine`` compares imagined with real trajectories and films policies,
``diagnose`` measures a world model's errors and calibration, ``report`` compares runs by their returns. ``targets``
names what errors are of.
"""
