"""The campaign's projects in Label Studio: one for each screen, made at the first need."""

from __future__ import annotations

from campaign.label_studio.client import Client, ProjectGone
from campaign.label_studio.verification import create_project
from campaign.pages.instructions import project_instructions
from campaign.quality.answers import standing_answers
from campaign.records.page import PageKind, Screen
from campaign.store import Store
from label_config import language, load
from ml_backend.errors import InputError

QUESTIONS = (Screen.VERIFICATION, Screen.SINGLE)  # screens that ask, rather than have something drawn


def connect(store: Store) -> Client:
    """A client for the campaign's Label Studio. Raises InputError where none is set."""
    url = store.settings.label_studio.url
    if url is None:
        raise InputError("label_studio.url", "the address of a running Label Studio", "none")
    return Client(url, store.secret("label_studio_token"))


def reached(store: Store) -> tuple[Client | None, str | None]:
    """A client for a Label Studio that answers, or else None and the line that says why there is none."""
    try:
        client = connect(store)
        client.check()
    except InputError as error:
        return None, str(error)
    return client, None


def screen_title(screen: Screen, code: str) -> str:
    """What the project of a screen is called, in the language `code`."""
    words = language(code)
    return {
        Screen.VERIFICATION: words.gettext("Verify"),
        Screen.SINGLE: words.gettext("Single masks"),
        Screen.EDIT: words.gettext("Edit"),
        Screen.PAINT: words.gettext("Paint"),
        Screen.COMPLETE: words.gettext("Is anything missing"),
        Screen.CORRECT: words.gettext("Correct by clicks"),
    }[screen]


def ensure_project(store: Store, client: Client, screen: Screen = Screen.VERIFICATION) -> int:
    """The id of the project of a screen's pages, made at the first call."""
    known = store.values.project(screen)
    if known is not None:
        return known
    asks, code = screen in QUESTIONS, store.settings.page.language
    url, secret = webhook_of(store) if asks else (None, None)
    project = create_project(
        client,
        title=f"{screen_title(screen, code)}: {store.settings.name} [{store.key}]",
        webhook_url=url,
        webhook_secret=secret,
        label_config=load(screen.value, () if asks else list(store.classes().values()), code).xml,
        instructions=project_instructions(store, screen.value),
        predictions=screen in (Screen.EDIT, Screen.CORRECT),
    )
    store.values.set_project(screen, project)
    return project


def webhook_of(store: Store) -> tuple[str, str]:
    """(address, secret) of the webhook that wakes the reader."""
    return f"{store.settings.page.public_url.rstrip('/')}/webhook", store.secret("webhook_secret")


def project_url(store: Store, screen: Screen) -> str | None:
    """The address at which a screen's pages are answered, None where there is no project yet."""
    project = store.values.project(screen)
    return None if project is None else f"{store.settings.label_studio.url}/projects/{project}/data"


def abandon_project(store: Store, client: Client) -> None:
    """Forgets a verification project that was deleted, so that the next one gets the pages without an answer.

    Answers that were read stay. Raises InputError where the project is still there.
    """
    gone = []
    for screen in (*QUESTIONS, Screen.COMPLETE, Screen.CORRECT):
        known = store.values.project(screen)
        if known is None:
            continue
        try:
            client.project(known)
        except ProjectGone:
            gone.append(known)
            pages = [p for p in store.pages.rows(published=True) if p.screen == screen and p.kind != PageKind.QUALIFY]
            answered = {a.page_key for a in standing_answers(store.answers.rows(p.key for p in pages))}
            answered |= {d.page_key for d in store.drawings.standing()}
            store.pages.unpublish(page.key for page in pages if page.key not in answered)
            store.values.drop_project(screen)
            store.log(f"project {known} was deleted; its open pages go to a new one")
    known = store.values.project(Screen.VERIFICATION)
    if known is not None and not gone:
        raise InputError(f"project {known}", "a deleted project, to make a new one", "one that is still there")
