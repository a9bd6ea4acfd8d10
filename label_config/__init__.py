"""Labeling configs and instructions for annotators, loaded and validated by name."""

from label_config.configs import LabelingConfig, load, names
from label_config.documents import ConfigError, parse_xml
from label_config.instructions import Instructions
from label_config.languages import ENGLISH, Language, language, languages
from label_config.pages import (
    HOTKEYS,
    PAGE_SIZE,
    Crop,
    Lesson,
    complete_data,
    correct_data,
    edit_data,
    hotkeys,
    page_data,
    paint_data,
    practice_data,
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
    "Language",
    "Lesson",
    "complete_data",
    "correct_data",
    "edit_data",
    "hotkeys",
    "language",
    "languages",
    "load",
    "names",
    "page_data",
    "paint_data",
    "parse_xml",
    "practice_data",
    "single_data",
]
