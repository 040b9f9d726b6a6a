"""Report: run folders compared in learning curves, tables and intervals over seeds.

Read ``build`` first, with :func:`dima.report`: ``runs`` reads the folders, ``compare`` groups them by task and
algorithm and chooses the steps to compare at, ``results`` computes every table with the functions of ``statistics``.
``verdicts`` judges them, ``page`` and ``score_sections`` show them with ``plots``; ``protocols`` describes the
conditions of the runs and warns where they differ.
"""
