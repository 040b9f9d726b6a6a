"""HTML pages: ``page`` builds one, ``figures`` makes its plots, ``style`` is its style sheet."""
