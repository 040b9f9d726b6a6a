"""Recording: play policies and store their episodes as a dataset.

Read ``config`` (what to record), ``policies`` (load a source's policy, add exploration noise), then ``record`` (play
the sources and write chunks; an interrupted recording is continued).
"""
