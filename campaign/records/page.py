"""Pages: what annotators are shown, as records that the store keeps and Label Studio is sent."""

from __future__ import annotations

from dataclasses import dataclass, field

from campaign.records.names import Name


class Screen(Name):
    """The labeling config that shows a page; each has a project of its own in Label Studio."""

    VERIFICATION = "verification"
    SINGLE = "single"
    EDIT = "edit"
    PAINT = "paint"
    COMPLETE = "complete"
    CORRECT = "correct"


class PageKind(Name):
    """What a page is for. Pages of audits and promises have a kind of their own each, see `audit_kind`."""

    VERIFY = "verify"
    QUALIFY = "qualify"
    EDIT = "edit"
    PAINT = "paint"
    COMPLETE = "complete"
    CORRECT = "correct"


EVERYONE = 1000  # users who may answer a page of a test or a practice
AUDIT = "audit"


def audit_kind(number: int) -> str:
    """The kind of the pages of one audit: its answers never count in another."""
    return f"{AUDIT}{number}"


def is_audit(kind: str) -> bool:
    """Whether a page's kind is that of an audit."""
    return kind.startswith(AUDIT)


PROMISE = "promise"


def promise_kind(attempt: int) -> str:
    """The kind of the pages that a promise of precision is drawn on, by its attempt."""
    return f"{PROMISE}{attempt}"


def is_promise(kind: str) -> bool:
    """Whether a page's kind is that of a promise."""
    return kind.startswith(PROMISE)


def is_question(kind: str) -> bool:
    """Whether what is asked on pages of a kind, gold aside, are verdicts of masks of the pool."""
    return kind == PageKind.VERIFY or is_audit(kind) or is_promise(kind)


@dataclass(frozen=True)
class NewPage:
    """A page to be stored.

    `questions` are (mask id, the cluster that the mask samples or None) in the order they were drawn, gold among them;
    `gold` are the known verdicts of some, {mask id: yes or no}. `place` says where something is to be drawn, where no
    mask does: {"image_id", "window": [x0, y0, x1, y1]}, and more on pages that ask what is missing. On pages that are
    corrected by clicks it says which mask that starts from, see `campaign.pages.correcting`.
    """

    key: str
    round_number: int
    class_id: int
    questions: tuple[tuple[int, int | None], ...]
    kind: str = PageKind.VERIFY
    gold: dict[int, str] = field(default_factory=dict)
    screen: str = Screen.VERIFICATION
    place: dict | None = None


@dataclass(frozen=True)
class ShownPage:
    """A page as its task shows it: its key in the store, and its masks by what they are called on it."""

    key: str
    masks: dict[str, int]
