"""The site of `make docs`: README.md as its front page, docs/, the studies, and a reference made from the sources.

Sphinx reads the repository itself, so a link between files leads to the same place as on GitHub. docs/api.rst is written by
reference.py at each build, and not committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = html_title = "paddle_pgonas"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
include_patterns = ["README.md", "docs/*.md", "docs/*.ipynb", "docs/api.rst", "studies/**.md"]
root_doc = "README"

nb_execution_mode = "off"  # notebooks are shown as they were run
myst_heading_anchors = 4  # as GitHub names them
nitpick_ignore_regex = [("myst", folder.name) for folder in HERE.parent.glob("studies/*/*/")]  # which only GitHub can show
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 140  # with the modules of types, which are not shown

html_theme = "furo"  # brings its fonts and scripts: the pages need no network
html_static_path, html_css_files = ["site.css"], ["site.css"]
html_copy_source = html_show_sphinx = html_show_copyright = False

CONTENTS = {
    "Start": "docs/install docs/tutorial docs/recipes",
    "Tasks": "docs/train docs/score docs/compare docs/search_export docs/extend docs/several_gpus docs/reproduce",
    "Reference": "docs/method docs/architecture docs/reliability docs/api",
    "Evidence": "studies/README studies/**",
}
"""Captions and pages of the navigation, without those that are not there."""


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the navigation to the front page, which on GitHub has none."""
    if page == root_doc:
        for caption, pages in CONTENTS.items():
            there = "\n".join(f"/{name}" for name in pages.split() if "*" in name or name in app.project.docnames)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{there}\n```\n"


def add_front_door(app: Sphinx, error: Exception | None) -> None:
    """The page that a browser opens first."""
    (Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n')


def setup(app: Sphinx) -> None:
    """Called by Sphinx at the beginning."""
    import reference

    (HERE / "api.rst").write_text(reference.page(), encoding="utf-8")
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_front_door)
