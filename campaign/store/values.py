"""What the store holds of single values, by name: the campaign's key, read-back cursors, projects, notes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from campaign.records.names import Name
from campaign.records.page import Screen
from campaign.store import models as m
from campaign.store.sessions import Sessions


class Key(Name):
    """The names of single values."""

    CAMPAIGN = "campaign"
    AUDIT = "audit"
    BATCHES = "batches"
    CERTIFICATE = "certificate"
    COMPLETENESS = "completeness"
    CORRECTIONS = "corrections"
    EXAMPLES = "examples"
    GO_ON = "go_on"
    INSTRUCTIONS_SHOWN = "instructions_shown"
    JOINING = "joining"
    OVERLAPS = "overlaps"
    PEOPLE = "people"
    PRACTICE = "practice"
    PROMISE = "promise"
    RELEASE = "release"
    QUALIFICATION_TESTS = "qualification_tests"
    TROUBLE = "trouble"
    WITHDRAWALS = "withdrawals"


_PROJECTS = {
    Screen.VERIFICATION: "verification_project",
    Screen.SINGLE: "single_project",
    Screen.EDIT: "edit_project",
    Screen.PAINT: "paint_project",
    Screen.COMPLETE: "complete_project",
    Screen.CORRECT: "correct_project",
}
_CURSORS = {
    Screen.VERIFICATION: "read_back_cursor",
    Screen.SINGLE: "single_cursor",
    Screen.EDIT: "edit_cursor",
    Screen.PAINT: "paint_cursor",
    Screen.COMPLETE: "complete_cursor",
    Screen.CORRECT: "correct_cursor",
}


class Values:
    """Part of `Store`: single values."""

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def get(self, name: str) -> dict[str, Any] | None:
        """A single value, or None."""
        with self._sessions() as session:
            row = session.get(m.Meta, str(name))
            return None if row is None else row.value

    def set(self, name: str, value: dict[str, Any]) -> None:
        """Sets a single value."""
        with self._sessions() as session:
            session.merge(m.Meta(name=str(name), value=value))

    def drop(self, name: str) -> None:
        """Forgets a single value."""
        with self._sessions() as session:
            session.execute(delete(m.Meta).where(m.Meta.name == str(name)))

    # What is asked for by many

    def project(self, screen: str) -> int | None:
        """The id of the project in Label Studio that a screen's pages are in, or None where there is none yet."""
        known = self.get(_PROJECTS[Screen(screen)])
        return None if known is None else int(known["id"])

    def set_project(self, screen: str, project: int) -> None:
        """Notes the project of a screen's pages."""
        self.set(_PROJECTS[Screen(screen)], {"id": project})

    def drop_project(self, screen: str) -> None:
        """Forgets the project of a screen's pages, and how far its answers were read."""
        self.drop(_PROJECTS[Screen(screen)])
        self.drop(_CURSORS[Screen(screen)])

    def people(self) -> dict[str, str]:
        """{annotator: email} as far as Label Studio said."""
        return dict(self.get(Key.PEOPLE) or {})

    def add_people(self, names: dict[int, str]) -> None:
        """Adds names of annotators by their id in Label Studio."""
        old = self.people()
        new = old | {str(i): email for i, email in names.items()}
        if new != old:
            self.set(Key.PEOPLE, new)

    def examples(self) -> dict[int, dict[str, list[int]]]:
        """{class: {"good": mask ids, "bad": mask ids}} of the masks that instructions show as examples."""
        return {int(class_id): masks for class_id, masks in (self.get(Key.EXAMPLES) or {}).items()}

    def set_examples(self, examples: dict[int, dict[str, list[int]]]) -> None:
        """Notes which masks instructions show as examples."""
        self.set(Key.EXAMPLES, {str(class_id): masks for class_id, masks in examples.items()})


def cursor_name(screen: str) -> str:
    """The name of the value that says how far a screen's answers were read back."""
    return _CURSORS[Screen(screen)]
