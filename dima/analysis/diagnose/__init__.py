"""What a world model gets right and wrong, measured on episodes it has not seen.

``diagnose`` plays fresh episodes (``episodes``), cuts segments out of them (``segments``) and lets the world model
foretell each from its own actions (``foretell``). One file each then looks at the error over the horizon (``error``),
the calibration of its spread (``calibration``), ``reward``, ``termination`` and ``value``, the order in which agents
are revealed (``order``), how a next state takes shape (``denoising``), and whose action moves what (``influence``).
These return numbers; ``findings`` puts the main ones into words, ``plots`` draws them, ``report`` writes them.
"""
