"""Generic network parts, without reinforcement learning.

Read ``mlp.py`` and ``normalizer.py`` first (all networks), then ``optim.py`` (gradient steps of world models),
``attention.py`` (Transformers and Perceivers) and ``quantizer.py`` (discrete bottlenecks).
"""
