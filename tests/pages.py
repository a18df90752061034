"""A page of the report as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser


class Elements(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data

    def pictures(self) -> list[str]:
        """The text alternative of every picture."""
        return [attributes["aria-label"] for tag, attributes in self.tags if tag == "svg" and attributes["role"] == "img"]
