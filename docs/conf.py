"""How the site is built: `make docs`. Sphinx reads this file.

Nothing is fetched, neither when the site is built nor when it is read: no inventory of another
project, no font and no script of another host. The reference is made from the code, at the
placeholders that `PARTS` names.
"""

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs.generate.api import api, error_tree, short_signature  # noqa: E402  # found by the line above
from docs.generate.commands import command_pages  # noqa: E402
from docs.generate.http_api import http_api  # noqa: E402
from docs.generate.loop_file import loop_file_tables  # noqa: E402
from docs.generate.metrics import metrics_tables  # noqa: E402
from docs.generate.names import API  # noqa: E402

project = "tidemill"
html_title = "tidemill"
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path: list[str] = []
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generate"]
highlight_language = "text"

default_role = "literal"  # docstrings write `code` as Markdown does
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "model_config",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # a list, not a paragraph for each attribute
myst_heading_anchors = 4

PARTS: dict[str, Callable[[], str]] = {
    "commands": command_pages,
    "loop-file": loop_file_tables,
    "metrics": metrics_tables,
    "http-api": http_api,
    "errors": error_tree,
    **{f"api {page}": partial(api, page) for page in API},
}
"""What stands for `<!-- generated: NAME -->` in a page."""

ALL_DECISIONS = "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"<!-- generated: (.+?) -->", lambda it: PARTS[it[1]](), source[0])
    if page == "decisions/README":  # a plain page in the repository, the parent of all others here
        source[0] += ALL_DECISIONS


def _simplify(
    app: Sphinx, kind: str, name: str, thing: object, options: object, given: str, returns: str
) -> tuple[str, str] | None:
    short = short_signature(thing)
    return (short, returns) if short else None


class _Properties:
    """Keeps docstrings of properties: Napoleon takes what is before a colon for a type."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def save(
        self, app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
    ) -> None:
        if kind == "property":
            self._lines[name] = list(lines)

    def restore(
        self, app: Sphinx, kind: str, name: str, thing: object, options: object, lines: list[str]
    ) -> None:
        lines[:] = self._lines.pop(name, lines)


def setup(app: Sphinx) -> None:
    """Fill in the parts that are made from the code."""
    properties = _Properties()
    app.connect("source-read", _fill)
    app.connect("autodoc-process-signature", _simplify)
    app.connect("autodoc-process-docstring", properties.save, priority=400)  # Napoleon has 500
    app.connect("autodoc-process-docstring", properties.restore, priority=600)
