"""Sphinx configuration; `make docs` builds with it and treats warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

import apex_native

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "apex-native"
author = "apex-native maintainers"
copyright = "apex-native maintainers, MIT licence"
version = release = apex_native.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "generated_pages",
]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

smartquotes = False
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "apex-native"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_copy_source = False
html_show_sourcelink = False
