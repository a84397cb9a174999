"""Sphinx configuration of the documentation: `sphinx-build -W docs docs/_build`, or `nox -s docs`."""

import re
from typing import Any

from pygments.lexers.special import TextLexer

project = "modelwright"
author = "The modelwright authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples", "figures"]

add_module_names = False

html_theme = "furo"
html_title = "modelwright"
html_show_sourcelink = False

myst_heading_anchors = 3
default_role = "code"  # docstrings are written with single backticks
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_member_order = "groupwise"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

UPWARD_LINK = re.compile(r"\[([^]]*)\]\(((?:\.\./)+)([^)#]+)(?:#[^)]*)?\)")
CODE_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields):$")
ATTRIBUTES = ("attribute", "data", "property")
COLON = "\ue000"  # in place of a colon, before which napoleon would expect the type of an attribute


def link_inside(_app: object, page: str, source: list[str]) -> None:
    """Replace links to files of the repository outside `docs` by the path of the file."""

    def replaced(link: re.Match[str]) -> str:
        leaves_docs = link[2].count("../") > page.count("/")
        return f"{link[1]} (`{link[3]}`)" if leaves_docs else link[0]

    source[0] = UPWARD_LINK.sub(replaced, source[0])


def from_markdown(_app: object, what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Convert the code spans and code blocks of a docstring from Markdown to reStructuredText."""
    found: list[str] = []
    text = CODE_SPAN.sub(lambda span: "``" + " ".join(span[1].split()) + r"``\ ", "\n".join(lines))
    before = ""  # the last line that is neither empty nor indented
    for line in text.split("\n"):
        if line.startswith("    ") and found and not found[-1].strip() and not SECTION.match(before):
            found += [] if before == "" else [".. code-block:: python", ""]
            before = ""
        elif line and not line.startswith(" "):
            before = line
        found.append(line)
    lines[:] = [line.replace(":", COLON) for line in found] if what in ATTRIBUTES else found


def restore_colons(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Undo the replacement of colons after napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def setup(app: Any) -> None:
    """Register the conversions around napoleon's, and a lexer for diagrams that are shown as text."""
    app.connect("source-read", link_inside)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.add_lexer("mermaid", TextLexer)
