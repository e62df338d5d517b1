"""Sphinx builds the manual from the Markdown pages beside this file: `make docs`."""

import medvision

project = "medvision"
author = "The medvision authors"
copyright = "2026, the medvision authors"
release = version = medvision.__version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"medvision {release}"
exclude_patterns = ["_build"]
nitpicky = True
