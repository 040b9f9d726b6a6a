"""Draw states of environments, real or imagined.

Read ``scene.py`` first (the interface), then ``mujoco.py`` (robots) or ``mpe.py`` (particles). ``headless.py`` finds an
OpenGL backend on machines without a screen.
"""
