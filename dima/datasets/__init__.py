"""Datasets: recorded episodes of one task, so that world models can be fitted to, and compared on, the same data.

``record`` plays the policies of ``sources`` and hands the episodes to ``writer``; ``reader`` opens what is finished;
``folder`` knows how it lies on disk; ``minari`` exchanges it with other libraries.
"""
