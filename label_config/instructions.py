"""Instructions for annotators: Markdown written by the lead, turned into HTML for the page and for Label Studio.

Three levels: how the task works (`task.md`), rules for every class (`rules.md`), rules for a class or a group of
classes (`classes/*.md`). A file in the campaign's folder replaces the one of the same name that comes with this
package, in the language of the campaign. A class file serves the class it is named after, or those in its first line,
`classes: nucleus, cell`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from label_config.languages import ENGLISH, Language, language

DEFAULTS = Path(__file__).parent / "texts"
# ![words](crop:123) shows the crop of mask 123.
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CROP = re.compile(r"crop:(\d+)")


@dataclass
class Instructions:
    """The texts of one campaign, read from `folder` (or the package's own, in the language `code`, without one).

    `change_hours` is said where a text has `{change_hours}`: how long a page may be changed.
    """

    folder: Path | None = None
    code: str = ENGLISH
    change_hours: float = 24
    task: str = field(init=False)
    rules: str = field(init=False)
    classes: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.task, self.rules = self.text("task.md"), self.text("rules.md")
        self.classes = {}
        for folder in (DEFAULTS, self.folder):
            for path in sorted((folder / "classes").glob("*.md")) if folder else []:
                head, _, body = path.read_text(encoding="utf-8").partition("\n")
                named = re.fullmatch(r"classes:\s*(.+)", head.strip())
                for name in named[1].split(",") if named else [path.stem]:
                    text = body if named else f"{head}\n{body}"
                    self.classes[name.strip().lower()] = _COMMENT.sub("", text).strip()

    def class_html(self, class_name: str, crop_url: Callable[[int], str] | None = None, examples: str = "") -> str:
        """What the page of `class_name` shows: its own rules, the HTML of its examples, the rules for every class."""
        own = to_html(self.classes.get(class_name.lower(), ""), crop_url)
        return "\n".join(part for part in (own, examples, to_html(self.rules, crop_url)) if part)

    def project_html(
        self,
        crop_url: Callable[[int], str] | None = None,
        screen: str = "verification",
        examples: Mapping[str, str] | None = None,
    ) -> str:
        """What Label Studio shows as the instructions of a project with this screen: all three levels.

        `examples` is HTML by class name.
        """
        task = self.task if screen == "verification" else self.text(f"{screen}.md")
        named = {name.lower(): name for name in (examples or {})}
        own = []
        for key in sorted(self.classes.keys() | named.keys()):
            name, shown = named.get(key, key), (examples or {}).get(named.get(key, ""), "")
            text = to_html(self.classes.get(key, ""), crop_url)
            if text or shown:
                own.append(f"<h2>{escape(name)}</h2>\n{text}\n{shown}")
        return "\n".join([to_html(task, crop_url), to_html(self.rules, crop_url), *own])

    def text(self, name: str) -> str:
        """The Markdown of one file: the campaign's own, else the package's; "" where there is none."""
        own = self.folder / name if self.folder else None
        text = own.read_text(encoding="utf-8") if own and own.is_file() else default_text(name, self.code)
        return _COMMENT.sub("", text).replace("{change_hours}", f"{self.change_hours:g}")


def default_text(name: str, code: str = ENGLISH) -> str:
    """The package's own Markdown of this name in the language `code`; "" where there is none."""
    path = DEFAULTS / name
    return language(code).markdown(path.read_text(encoding="utf-8")) if path.is_file() else ""


def to_html(markdown: str, crop_url: Callable[[int], str] | None = None) -> str:
    """HTML of `markdown`, in which raw HTML is shown as text; `crop_url` returns the address of a mask's crop."""
    if crop_url is not None:
        markdown = _CROP.sub(lambda match: crop_url(int(match[1])), markdown)
    return MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown).strip()


def examples_html(good: list[str], bad: list[str], code: str = ENGLISH) -> str:
    """Two rows of example crops, named by their addresses: masks that are correct and masks that are not."""
    words: Language = language(code)
    rows = [(words.gettext("Correct"), good), (words.gettext("Wrong"), bad)]
    return "".join(
        f"<h4>{word}</h4><p>{''.join(_picture(url, word) for url in urls)}</p>" for word, urls in rows if urls
    )


def _picture(url: str, word: str) -> str:
    return f"<img loading='lazy' src='{escape(url, quote=True)}' alt='{escape(word, quote=True)}'/>"
