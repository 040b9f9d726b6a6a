"""Datasets: recorded episodes of one task, to fit and compare world models on the same data.

Read ``format`` (files on disk and their checks), ``writer`` (append chunks, hold out episodes), ``reader`` (open and
describe a finished dataset), then ``minari`` with ``minari_forms`` (import from and export to Minari). Policies are
recorded by ``dima.recording``.
"""
