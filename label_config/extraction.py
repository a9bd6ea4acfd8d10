"""Every text that annotators read, taken from the sources, and the catalogues kept up to date with them.

    python -m label_config.extraction

adds new texts to every catalogue, without a translation, and drops those that are gone; `--check` changes nothing and
fails where a text has no translation.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from label_config.configs import FOLDER, shown_texts
from label_config.instructions import DEFAULTS
from label_config.languages import CATALOGUES, blocks

if TYPE_CHECKING:
    from babel.messages.catalog import Catalog

ROOT = Path(__file__).parent.parent
# Where Python code names texts of annotators, as arguments of `gettext` and `pgettext`.
SOURCES = ("label_config", "campaign/pages")
_KEYWORDS = {"gettext": None, "pgettext": ((1, "c"), 2)}


def messages() -> Iterator[tuple[str, str | None, str]]:
    """(the file, the context or None, the English text) of every text."""
    from babel.messages.extract import extract_from_file

    for source in SOURCES:
        for path in sorted((ROOT / source).glob("*.py")):
            for _, text, _, context in extract_from_file("python", path, keywords=_KEYWORDS):
                yield path.name, context, text if isinstance(text, str) else text[0]
    for path in sorted(FOLDER.glob("*.xml")):
        for text in shown_texts(path.read_text(encoding="utf-8")):
            yield path.name, None, text
    for path in sorted(DEFAULTS.glob("*.md")):
        for text in blocks(path.read_text(encoding="utf-8")):
            yield path.name, None, text


def read_catalogue(path: Path) -> Catalog:
    """The catalogue in a file."""
    from babel.messages.pofile import read_po

    with path.open("rb") as file:
        return read_po(file, locale=path.stem)


def missing(catalogue: Catalog) -> list[str]:
    """What a catalogue lacks or has too much of, a line each."""
    wanted = {(context, text): name for name, context, text in messages()}
    known = {(m.context, str(m.id)): m for m in catalogue if m.id}
    lines = [f"{name}: no translation of {key[1][:60]!r}" for key, name in wanted.items()
             if key not in known or not known[key].string or known[key].fuzzy]  # fmt: skip
    return lines + [f"no such text any more: {key[1][:60]!r}" for key in known.keys() - wanted.keys()]


def update(path: Path) -> None:
    """Brings a catalogue up to date: its translations stay as far as their texts do."""
    from babel.messages.catalog import Catalog
    from babel.messages.pofile import write_po

    known = {(m.context, str(m.id)): m.string for m in read_catalogue(path) if m.id}
    fresh = Catalog(locale=path.stem, fuzzy=False, header_comment="# What annotators read, by its English words.")
    for name, context, text in messages():
        fresh.add(text, known.get((context, text), ""), locations=[(name, 1)], context=context)
    with path.open("wb") as file:
        write_po(file, fresh, width=0, include_lineno=False)
    # Without times and tools, so that a catalogue changes only where a text does.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(_NOISE)), encoding="utf-8")


_NOISE = tuple(
    f'"{name}' for name in ("Project-Id", "Report-", "POT-", "PO-Revision", "Last-", "Language-Team", "Generated-")
)


def main() -> int:
    """Updates or checks every catalogue; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m label_config.extraction", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a translation is missing")
    check = parser.parse_args().check
    found = False
    for path in sorted(CATALOGUES.glob("*.po")):
        if not check:
            update(path)
        for line in missing(read_catalogue(path)):
            found = True
            print(f"{path.stem}: {line}")
    return int(found and check)


if __name__ == "__main__":
    sys.exit(main())
