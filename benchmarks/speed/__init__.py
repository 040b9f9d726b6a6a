"""What a learning iteration costs, and what makes it faster.

``__main__`` (``python -m benchmarks.speed``) times a preset's iteration: ``counts`` (operations), ``parts`` (each one),
``switches`` (each optimisation on and off), ``versus`` and ``whole`` (against the reference in ``plain/``). Commands of
their own: ``seeds`` (several runs on a device), ``checkouts`` (another commit), ``precision`` (errors in bf16). Shared:
``learners``, ``units``, ``timing``, ``cost``, ``settings``, ``tables``.
"""
