"""The code blocks of the documentation's pages, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))

_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page; `title` is the name of a file, or empty."""

    language: str
    title: str
    text: str


def blocks(page: str, language: str) -> list[Block]:
    """The blocks of a page in one language, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    candidates = [Block(*match.groups(default="")) for match in _FENCE.finditer(text)]
    return [block for block in candidates if block.language == language]


def block(page: str, title: str) -> str:
    """The text of the one block of a page that has this title."""
    (text,) = (
        example.text
        for kind in ("yaml", "python")
        for example in blocks(page, kind)
        if example.title == title
    )
    return text
