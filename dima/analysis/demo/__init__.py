"""A trained team that ships with the library, and its imagination.

``team/`` is a run folder of a policy and a world model, without what only learning needs: ``python -m benchmarks.demo``
makes it from a finished run. ``run`` copies it and imagines with it, for :func:`dima.demo`.
"""
