"""Settings of Sphinx for the documentation site, see ``make docs``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import fields  # noqa: E402

from dima.version import __version__  # noqa: E402

project = "dima"
author = "the dima authors"
project_copyright = f"{author} (MIT licence)"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "index"
default_role = "code"  # of single backticks in docstrings
highlight_language = "none"  # indented blocks are formulas
pygments_style, pygments_dark_style = "friendly", "monokai"
suppress_warnings = ["myst.header"]

myst_heading_anchors = 6  # as on GitHub

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False
napoleon_use_rtype = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"dima {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

linkcheck_anchors = False  # of pages that scripts build
linkcheck_timeout = 20


def setup(app):
    """Add the comments of settings, which are their help on the command line, to their pages."""
    app.connect("autodoc-process-docstring", fields.describe)
    app.connect("autodoc-process-signature", fields.sign)
