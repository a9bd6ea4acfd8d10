"""Labeling configs and instructions for annotators, loaded and validated by name."""

from label_config.configs import LabelingConfig, load, names
from label_config.documents import ConfigError, parse_xml
from label_config.instructions import Instructions
from label_config.languages import ENGLISH, language, languages
from label_config.pages import (
    HOTKEYS,
    PAGE_SIZE,
    Crop,
    complete_data,
    edit_data,
    hotkeys,
    page_data,
    paint_data,
    single_data,
)

__all__ = [
    "ENGLISH",
    "HOTKEYS",
    "PAGE_SIZE",
    "ConfigError",
    "Crop",
    "Instructions",
    "LabelingConfig",
    "complete_data",
    "edit_data",
    "hotkeys",
    "language",
    "languages",
    "load",
    "names",
    "page_data",
    "paint_data",
    "parse_xml",
    "single_data",
]
