"""The site: `make docs` builds it without warnings, and a broken internal link is one.

Pages are picked up by themselves: those in `methods`, `presets` and `tutorials` by patterns, and a
page in this folder that no table of contents names goes to the how-to pages.
"""

import re
import sys
from pathlib import Path

import limbeck

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from api_pages import write_api_pages  # noqa: E402

project = "Limbeck"
author = "the authors of Limbeck"
copyright = "the authors of Limbeck, Apache-2.0"
release = version = limbeck.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False  # those of torch refer to its own pages
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"Limbeck {release}"
html_static_path = ["_static"]
html_css_files = ["limbeck.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

MORE_PAGES = "ALL OTHER PAGES"


def pages_of_no_contents(index: str) -> list[str]:
    """The pages of this folder that `index` does not name, in alphabetical order."""
    named = set(re.findall(r"^(?:.*<)?([\w./-]+)>?$", index, re.M))
    pages = sorted(path.stem for path in DOCS.glob("*.md"))
    return [page for page in pages if page != "index" and page not in named]


def prepare_page(app, docname: str, source: list[str]) -> None:
    # an anchor in HTML, which GitHub reads, as a target that MyST links to
    source[0] = re.sub(r'<a id="([\w-]+)"></a>', r"[]{#\1}", source[0])
    if docname == "index":
        source[0] = source[0].replace(MORE_PAGES, "\n".join(pages_of_no_contents(source[0])))


def escape_formulas(app, what, name, thing, options, lines: list[str]) -> None:
    """Docstrings are plain text: a bar or star of a formula is no markup, BibTeX stays as it is."""
    escaped: list[str] = []
    literal = bibtex = False
    for line in lines:
        if bibtex and not line.strip():
            bibtex = False
        if line.startswith("@") and not bibtex:
            escaped += ["", "::", ""]
            bibtex = True
        if line.strip() and not line.startswith(" "):
            literal = False
        if not literal and not bibtex:
            parts = re.split(r"(``.*?``)", line)
            parts[::2] = [re.sub(r"(?<!\\)([|*])", r"\\\1", part) for part in parts[::2]]
            line = "".join(parts)
        escaped.append(f"  {line}" if bibtex else line)
        literal = literal or line.endswith("::")
    lines[:] = escaped


def setup(app) -> None:
    write_api_pages(DOCS / "api")
    # before napoleon, whose priority is 500
    app.connect("autodoc-process-docstring", escape_formulas, priority=400)
    app.connect("source-read", prepare_page)
