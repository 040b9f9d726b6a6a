"""The algorithms by name. Values are ``module:ConfigClass``, imported when asked for."""

ALGORITHMS = {
    "dima": "dima.algorithms.model_based:DimaConfig",
    "mappo": "dima.algorithms.mappo:MappoConfig",
}
