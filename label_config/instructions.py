"""Instructions for annotators: Markdown written by the lead, turned into HTML for the page and for Label Studio.

Three levels: how the task works (`task.md`), rules for every class (`rules.md`), rules for a class or a group of
classes (`classes/*.md`). A file in the campaign's folder replaces the one of the same name that comes with this
package. A class file serves the class it is named after, or those in its first line, `classes: nucleus, cell`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

DEFAULTS = Path(__file__).parent / "texts"
# ![words](crop:123) shows the crop of mask 123.
_CROP = re.compile(r"crop:(\d+)")


@dataclass
class Instructions:
    """The texts of one campaign, read from `folder` (or the package's own where that has none)."""

    folder: Path | None = None
    task: str = field(init=False)
    rules: str = field(init=False)
    classes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.task, self.rules = self._text("task.md"), self._text("rules.md")
        self.classes = {}
        for folder in (DEFAULTS, self.folder):
            for path in sorted((folder / "classes").glob("*.md")) if folder else []:
                head, _, body = path.read_text(encoding="utf-8").partition("\n")
                named = re.fullmatch(r"classes:\s*(.+)", head.strip())
                for name in named[1].split(",") if named else [path.stem]:
                    self.classes[name.strip().lower()] = body if named else f"{head}\n{body}"

    def class_html(self, class_name: str, crop_url: Callable[[int], str] | None = None) -> str:
        """What the page of `class_name` shows: its own rules first, then those for every class."""
        own = self.classes.get(class_name.lower(), "")
        return to_html(f"{own}\n\n{self.rules}", crop_url)

    def project_html(self, crop_url: Callable[[int], str] | None = None) -> str:
        """What Label Studio shows as the project's instructions: all three levels."""
        own = "\n\n".join(f"## {name}\n\n{text}" for name, text in sorted(self.classes.items()))
        return to_html(f"{self.task}\n\n{self.rules}\n\n{own}", crop_url)

    def _text(self, name: str) -> str:
        for folder in (self.folder, DEFAULTS):
            if folder and (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8")
        return ""


def to_html(markdown: str, crop_url: Callable[[int], str] | None = None) -> str:
    """HTML of `markdown`, in which raw HTML is shown as text; `crop_url` gives the address of a mask's crop."""
    if crop_url is not None:
        markdown = _CROP.sub(lambda found: crop_url(int(found[1])), markdown)
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown).strip()


def examples_html(good: list[str], bad: list[str]) -> str:
    """Two rows of example crops, given by their addresses: masks that are correct and masks that are not."""
    rows = [("Correct", good), ("Wrong", bad)]
    return "".join(f"<h4>{word}</h4><p>{''.join(map(_picture, urls))}</p>" for word, urls in rows if urls)


def _picture(url: str) -> str:
    return f"<img src='{escape(url, quote=True)}' alt=''/>"
