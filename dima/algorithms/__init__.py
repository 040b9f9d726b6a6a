"""Algorithms: who learns, from which experience.

Read ``objectives.py`` (returns and losses), ``ppo.py`` (the update of MAPPO, HAPPO and DIMA), ``on_policy.py`` with
``mappo.py`` and ``happo.py``, ``hasac.py``, and ``model_based.py`` (learning in imagination); ``base.py`` is their
interface to the training loop.

``ALGORITHMS`` maps names to ``module:ConfigClass``, imported on use.
"""

ALGORITHMS = {
    "dima": "dima.algorithms.model_based:DimaConfig",
    "ensemble": "dima.algorithms.model_based:EnsembleConfig",
    "happo": "dima.algorithms.happo:HappoConfig",
    "hasac": "dima.algorithms.hasac:HasacConfig",
    "mappo": "dima.algorithms.mappo:MappoConfig",
}
