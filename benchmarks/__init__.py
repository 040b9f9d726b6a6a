"""Measurements behind the claims of the documentation; not part of the library.

``speed`` times learning, ``studies`` measures world models and their settings, ``peers`` runs other implementations.
"""
