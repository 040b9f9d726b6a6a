"""The algorithms by name. Values are ``module:ConfigClass``, imported when asked for."""

ALGORITHMS = {
    "dima": "dima.algorithms.model_based:DimaConfig",
    "ensemble": "dima.algorithms.model_based:EnsembleConfig",
    "happo": "dima.algorithms.happo:HappoConfig",
    "hasac": "dima.algorithms.hasac:HasacConfig",
    "mappo": "dima.algorithms.mappo:MappoConfig",
}
