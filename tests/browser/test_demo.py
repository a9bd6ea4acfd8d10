"""`campaign demo --human`, played by hand from its first page to its end, by keys."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest

from campaign.label_studio.server import find_command
from campaign.records.stage import Stage
from ml_backend.errors import InputError
from tests.browser.person import LIMIT, Person, invitation, load, log_in
from tests.campaign.cli.builders import CAMPAIGN

pytestmark = [pytest.mark.label_studio, pytest.mark.browser, pytest.mark.redis]


@pytest.mark.timeout(1500)
def test_the_demo_is_played_by_hand_to_its_end(browser, tmp_path):
    try:
        find_command()
    except InputError as error:
        pytest.skip(str(error))
    out, log = tmp_path / "demo", tmp_path / "log"
    command = [CAMPAIGN, "demo", "--human", "--images", "10", "--out", str(out), "--json"]
    with log.open("w") as said, (tmp_path / "result").open("w") as result:
        process = subprocess.Popen(command, stdout=result, stderr=said, stdin=subprocess.DEVNULL)
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    try:
        address, user, password = invitation(process, log)
        page = context.new_page()
        page.set_default_timeout(60_000)
        log_in(page, address, user, password)
        person = Person(out)
        until = time.monotonic() + LIMIT
        while process.poll() is None:
            assert time.monotonic() < until, log.read_text()[-2000:]
            if person.store.rounds.newest().stage == Stage.DONE:  # what comes after the last reading is not exported
                time.sleep(0.5)
                continue
            if not page.locator(".cv-crop img").count():
                load(page, address)
                continue
            person.answer(page)
    finally:
        context.close()
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    assert process.returncode == 0, log.read_text()[-2000:]
    reached = json.loads((tmp_path / "result").read_text())
    assert person.pages >= 2 and reached["masks"] > 0
    answered = {fact.annotation_id for fact in person.store.answers.after(0)}
    assert len(answered) == person.pages, "a page that was answered was lost"
    for file in ("export", "card", "report"):
        assert Path(reached[file]).stat().st_size > 0
