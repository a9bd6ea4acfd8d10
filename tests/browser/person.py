"""A person at the browser, who plays `campaign demo --human`: for its test, and for the pictures of the README."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import label_config
from campaign.demo.eyes import Truth
from campaign.demo.sight import Sight
from campaign.store import Store

LIMIT = 900  # seconds until the demo invites, on a machine however busy


class Person:
    """Someone at the browser, who knows the true objects as people know what they see."""

    def __init__(self, out: Path):
        self.store = Store.open(out / "campaign", read_only=True)
        self.truth = Truth(*(out / "data" / f"{split}.json" for split in ("pool", "heldout", "labelled")))
        self.sight = Sight(self.store)
        self.keys: dict[str, bool] = {}  # the name of a mask, and whether it is correct
        self.pages = 0

    def is_correct(self, name: str) -> bool:
        """What a person sees of a mask on the screen."""
        until = time.monotonic() + 20
        while name not in self.keys and time.monotonic() < until:
            classes = self.store.classes()
            for page in self.store.pages.rows(published=True):
                if page.class_id in classes:  # those that ask what is missing are of none
                    self.keys |= {
                        mask["name"]: self.truth.best_iou(mask["image"], classes[page.class_id], mask["rle"]) >= 0.75
                        for mask in self.sight.of(page)["masks"]
                    }
        return self.keys[name]

    def answer(self, page: Any, pressed: Callable[[str], None] = lambda key: None) -> None:
        """Answers the page that is on the screen, by keys alone; `pressed` is told of each."""
        names = page.eval_on_selector_all(".cv-wrong input", "inputs => inputs.map(i => i.name)")
        wrong = [label_config.HOTKEYS[i] for i, name in enumerate(names) if not self.is_correct(name)]
        for key in [*wrong, "Space"]:
            page.keyboard.press(key)
            pressed(key)
        self.pages += 1
        page.wait_for_function(
            """names => { const now = [...document.querySelectorAll('.cv-wrong input')].map(i => i.name);
            return (now.length && now[0] !== names[0]) || document.body.innerText.includes('No More Tasks') }""",
            arg=names,
        )


def invitation(process: subprocess.Popen, log: Path) -> tuple[str, str, str]:
    """The address, user and password that the demo prints when its first page waits."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"^Open +(\S+)\nuser +(\S+)\npassword +(\S+)$", log.read_text(), re.MULTILINE):
            return found[1], found[2], found[3]
        time.sleep(0.3)
    raise AssertionError(log.read_text()[-2000:])


def log_in(page: Any, address: str, user: str, password: str) -> None:
    """Opens the address that the demo prints, and logs in where it asks."""
    page.goto(address)
    page.locator("[name=email]").fill(user)
    page.locator("[name=password]").fill(password)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("projects"))


def load(page: Any, address: str) -> None:
    """Loads the page again, and waits a while for the crops of a page to answer."""
    from playwright.sync_api import Error

    try:
        page.goto(address)
        page.wait_for_selector(".cv-crop img", timeout=8000)
    except Error:  # nothing waits just now, or all is over and the server gone
        time.sleep(1)
