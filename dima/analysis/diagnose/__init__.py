"""Diagnosis of a world model on episodes that it was not trained on.

Read ``run`` first: it plays fresh episodes (``episodes``), cuts segments out of them and forecasts each from its first
step and its actions (``rollouts``). ``error`` and ``calibration`` score the forecasts, ``reveal`` compares orders in
which agents' actions are revealed, ``influence`` measures which action changes which feature; their intervals
are bootstrapped (``bootstrap``). ``results`` holds all numbers and summarises them in sentences, ``verdicts`` judges
them, ``plots`` draws them, and ``page`` writes ``diagnosis.json`` and ``diagnosis.html``.
"""
