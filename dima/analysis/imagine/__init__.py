"""Comparison of imagined and real trajectories, as numbers, page and film; and films of a policy.

Read ``run`` first, with :func:`dima.imagine` and :func:`dima.film`. ``time_steps`` plays a real episode step by step,
``compare`` imagines a part of it, ``results`` computes errors and ``verdicts`` judges them. ``pictures`` draws film
frames and filmstrips, which ``canvas`` lays out and encodes; ``page`` writes every file.
"""
