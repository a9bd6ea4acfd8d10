"""Labeling configs as XML: whoever may edit a project writes them, so they are bounded and define nothing."""

from __future__ import annotations

from xml.etree import ElementTree

# Characters of a labeling config; ten thousand labels take less.
MAX_CONFIG = 1 << 20
# Tags in tags. Whoever looks through the tags of every tag then looks at each one at most so often.
MAX_DEPTH = 64


class ConfigError(ValueError):
    """A labeling config that is unknown or would not work in Label Studio."""


def parse_xml(xml: str) -> ElementTree.Element:
    """The root of a labeling config.

    Raises ConfigError where it is no XML, longer than `MAX_CONFIG`, deeper than `MAX_DEPTH`, or defines entities.
    """
    if not isinstance(xml, str):
        raise ConfigError(f"expected XML, got {type(xml).__name__}")
    if len(xml) > MAX_CONFIG:
        raise ConfigError(f"expected at most {MAX_CONFIG} characters, got {len(xml)}")
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise ConfigError("expected XML without definitions of its own, got a DOCTYPE")
    try:
        root = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, ValueError) as error:
        raise ConfigError(f"expected XML, got {error}") from None
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
        if not level:
            return root
    raise ConfigError(f"expected at most {MAX_DEPTH} tags in each other, got more")
