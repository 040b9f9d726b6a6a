"""Draw states of environments, real or imagined.

Read ``scene.py`` first (the interface), then ``mujoco.py`` (robots) or ``mpe.py`` (particles); ``rendered.py`` is for
environments that only render themselves. ``colors.py`` has the agents' colours. ``headless.py`` finds an OpenGL backend
on machines without a screen.
"""
