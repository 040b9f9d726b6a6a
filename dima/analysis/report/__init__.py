"""Finished and unfinished run folders into curves, tables and intervals over seeds: see :func:`dima.report`."""
