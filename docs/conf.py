"""Sphinx settings for these pages and the Python API. `make docs` builds them."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib.metadata import version as version_of
from pathlib import Path
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


def restrict(app: Any, error: Exception | None) -> None:
    """Put a policy into each page by which a browser loads only what is next to it."""
    for page in [] if error else Path(app.outdir).rglob("*.html"):
        text = page.read_text()
        inline = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        own = {b64encode(sha256(script.encode()).digest()).decode() for script in inline}
        scripts = " ".join(f"'sha256-{one}'" for one in sorted(own))
        here = "'self' file:"
        policy = (
            f"default-src 'none'; script-src {here} {scripts}; style-src {here} 'unsafe-inline'; "
            f"img-src {here} data:; font-src {here}; connect-src {here}; base-uri 'none'; "
            f"form-action {here}"
        )
        tag = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        page.write_text(text.replace('<meta charset="utf-8"', f'{tag}<meta charset="utf-8"', 1))


def setup(app: Any) -> None:
    """Run before numpydoc, which has priority 500."""
    app.connect("autodoc-process-docstring", show_pictures, priority=400)
    app.connect("build-finished", restrict)
