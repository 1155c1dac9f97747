"""Sphinx settings for these pages and the Python API. `make docs` builds them."""

from importlib.metadata import version as version_of
from typing import Any

project = "hepflow"
version = release = version_of("hepflow")
html_title = f"hepflow {version}"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
default_role = "code"  # `name` in a docstring is code, as in Markdown

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # show the constant's name, not PosixPath('data/raw')
numpydoc_show_class_members = False


def show_pictures(_app: Any, what: str, _name: str, _object: Any, _o: Any, lines: Any) -> None:
    """Mark indented lines in the docstring of a module as literal text, for ASCII pictures."""
    for number in reversed(range(len(lines))):
        above = next((line for line in reversed(lines[:number]) if line), "::")
        new = lines[number].startswith("    ") and not above.startswith(" ")
        if what == "module" and new and not above.endswith("::"):
            lines[number:number] = ["::", ""]


def setup(app: Any) -> None:
    """Run before numpydoc, which has priority 500."""
    app.connect("autodoc-process-docstring", show_pictures, priority=400)
