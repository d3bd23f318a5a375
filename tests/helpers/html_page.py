"""A parsed HTML page."""

import html.parser
from pathlib import Path


class HtmlPage(html.parser.HTMLParser):
    """Tags, text, headings and addresses of a page; asserts that all elements are closed."""

    EMPTY = frozenset({"img", "meta", "br", "link"})

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.sources, self.open, self.headings = [], "", [], [], []
        self.feed(Path(path).read_text())
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attributes = ("src", "href", "xlink:href", "action")
        self.sources += [value for name, value in attrs if name in attributes]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.text += data
