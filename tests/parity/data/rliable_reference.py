"""Writes rliable.json: scores drawn from a seed, and what rliable says of them.

Run in an environment of its own, because rliable cannot be imported beside current pandas:

    python -m venv reference && reference/bin/pip install rliable==1.2.0 "numpy<2" "pandas<2.2" "scipy<1.13"
    reference/bin/python tests/data/rliable_reference.py > tests/data/rliable.json
"""

import json
from importlib.metadata import version

import numpy as np
from rliable import library, metrics

SEED, RUNS, TASKS, RESAMPLES = 7, {"first": 9, "second": 6}, 5, 50_000
THRESHOLDS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5]

draws = np.random.default_rng(SEED)
level = draws.uniform(0.2, 0.9, TASKS)
scores = {
    name: np.round(draws.normal(level + shift, 0.25, (RUNS[name], TASKS)), 2)  # rounded, so that ties occur
    for name, shift in (("first", 0.1), ("second", 0.0))
}
pair = {"pair": (scores["first"], scores["second"])}


def estimates(score_dict, statistic):
    return library.get_interval_estimates(
        score_dict, statistic, reps=RESAMPLES, random_state=np.random.RandomState(SEED)
    )


iqm, iqm_interval = estimates(scores, lambda x: np.array([metrics.aggregate_iqm(x)]))
average, _ = estimates(scores, lambda x: np.array([metrics.aggregate_mean(x)]))
improvement, improvement_interval = estimates(pair, metrics.probability_of_improvement)
profile, profile_interval = library.create_performance_profile(scores, np.array(THRESHOLDS), reps=RESAMPLES)

print(
    json.dumps(
        {
            "origin": {
                "versions": {name: version(name) for name in ("rliable", "arch", "numpy", "scipy", "pandas")},
                "seed": SEED,
                "resamples": RESAMPLES,
                "command": "python tests/data/rliable_reference.py > tests/data/rliable.json",
            },
            "scores": {name: value.T.tolist() for name, value in scores.items()},  # task by task
            "thresholds": THRESHOLDS,
            "mean": {name: float(value[0]) for name, value in average.items()},
            "iqm": {name: float(value[0]) for name, value in iqm.items()},
            "iqm_interval": {name: value[:, 0].tolist() for name, value in iqm_interval.items()},
            "improvement": float(improvement["pair"]),
            "improvement_interval": improvement_interval["pair"].ravel().tolist(),
            "profile": {name: value.tolist() for name, value in profile.items()},
            "profile_interval": {name: value.tolist() for name, value in profile_interval.items()},
        },
        indent=1,
    )
)
