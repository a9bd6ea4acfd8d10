"""`invite`, `qualify`, `annotators`: the people who answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit

if TYPE_CHECKING:
    from rich.table import Table

    from campaign.derived.team import Team
    from campaign.label_studio.client import Client
    from campaign.quality.measures import Rate
    from campaign.store import Store


def invite(
    folder: Folder,
    user: Annotated[list[str] | None, typer.Option(help="Email of an annotator to sign up; may be repeated.")] = None,
    key: Annotated[str, typer.Option(help="Key with which these annotators submit a page.")] = "space",
    lead: Annotated[bool, typer.Option("--lead", help="Show the address and password of the lead's page.")] = False,
    json: Json = False,
) -> None:
    """Print the link with which annotators sign up, or sign them up with one key to submit.

    Passwords of annotators signed up here are printed once and stored nowhere.
    """
    from campaign.store import Store

    store = Store.open(folder)
    if lead:
        from campaign.web.lead.login import USER, lead_password

        url = f"{store.settings.page.public_url.rstrip('/')}/lead/"
        password = lead_password(store)
        emit({"url": url, "user": USER, "password": password}, json, f"{url}\n  user {USER}\n  password {password}")
        return
    from campaign.label_studio.people import invitation
    from campaign.label_studio.people import invite as sign_up
    from campaign.pages.projects import connect, ensure_project

    client = connect(store)
    with store.locked():
        project = f"{client.url}/projects/{ensure_project(store, client)}/data"
    link = invitation(client)
    accounts = [sign_up(client, email, key) for email in user or []]
    store.values.add_people(client.users())
    lines = [f"sign up: {link}", f"answer:  {project}"]
    lines += [f"{a.email}  password {a.password}  submits with {key}" for a in accounts]
    if not accounts:
        lines.append(f"annotators who sign up by the link submit with Ctrl+Enter; --user EMAIL sets {key}")
    users = [{"email": a.email, "password": a.password, "key": key} for a in accounts]
    emit({"link": link, "project": project, "users": users}, json, "\n".join(lines))


def qualify(
    folder: Folder,
    retake: Annotated[bool, typer.Option("--retake", help="Make another test, of masks not seen before.")] = False,
    pages: Annotated[int | None, typer.Option(min=1, help="Pages of a new test; by default as set.")] = None,
    practice: Annotated[
        bool, typer.Option("--practice", help="Practice pages, which say at once what was right; nothing counts.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a test of masks with known verdicts, or score the tests that were made."""
    from campaign.cli.output import table
    from campaign.pages.projects import connect
    from campaign.pages.qualification import begin_test, read_tests, results, tests
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    if practice:
        _practise(store, client, retake, pages, json)
        return
    if retake or not tests(store):
        begin_test(store, client, pages)
    with store.locked():
        read_tests(store, client)
    store.values.add_people(client.users())
    names, scores = store.values.people(), results(store)
    made = [{"test": t["number"], "url": f"{client.url}/projects/{t['project']}/data"} for t in tests(store)]
    if json:
        rows = [
            {
                "test": r.test, "user": names.get(r.user, r.user), "answered": r.answered, "masks": r.masks,
                "right": r.right, "passed": r.passed,
            }
            for r in scores
        ]  # fmt: skip
        emit({"tests": made, "results": rows}, True)
        return
    limit = store.settings.quality.qualification_limit
    lines = [(f"test {t['test']}", t["url"]) for t in made]
    for r in scores:
        state = "passed" if r.passed else "not passed" if r.answered == r.masks else "under way"
        score = f"{r.right} of {r.answered} right, {r.answered} of {r.masks} answered: {state}"
        lines.append((f"test {r.test}, {names.get(r.user, r.user)}", score))
    table(f"{store.settings.name}: qualification, passed at {limit:.0%}", lines)


def _practise(store: Store, client: Client, again: bool, pages: int | None, json: bool) -> None:
    from campaign.cli.output import table
    from campaign.pages.practice import begin_practice, practices

    if again or not practices(store):
        begin_practice(store, client, pages)
    made = [{"practice": p["number"], "url": f"{client.url}/projects/{p['project']}/data"} for p in practices(store)]
    if json:
        emit({"practices": made}, True)
        return
    table(f"{store.settings.name}: practice", [(f"practice {p['practice']}", p["url"]) for p in made])


def annotators(folder: Folder, json: Json = False) -> None:
    """Show what each annotator did: answers, gold, eyes, agreement, seconds, and what looks careless.

    An eye is a curve of the share of yes by a mask's true IoU: where it cuts, with a 90 % interval, how wide it is, and
    how often the annotator passes masks far below the cut or misses ones far above it.
    """
    from campaign.derived.team import as_json, team
    from campaign.store import Store

    store = Store.open(folder)
    figures = team(store)
    if json:
        emit(as_json(figures), True)
        return
    _print(store.settings.name, figures)


def _print(name: str, figures: Team) -> None:
    from rich.console import Console
    from rich.table import Table

    from campaign.cli.output import plain
    from campaign.derived.team import PUBLISHED_ANSWER, PUBLISHED_DRAWING, money

    shown = Table(title=plain(name, "bold"), title_justify="left", title_style="bold")
    for column in (
        "annotator",
        "answers",
        "withdrawn",
        "gold",
        "sensitivity",
        "specificity",
        "kappa",
        "s / answer",
        "hours",
    ):
        shown.add_column(column, justify="left" if column == "annotator" else "right", overflow="fold")
    for u in figures.users:
        shown.add_row(
            plain(u.name), str(u.answers), str(u.withdrawn), str(u.gold.asked), _share(u.gold.sensitivity),
            _share(u.gold.specificity), _plain(u.agreement.kappa), _plain(u.pace.per_answer),
            _hours(figures, u.seconds),
        )  # fmt: skip
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file has room
    console.print(shown)
    for u in figures.users:
        for flag in (*u.flags, *([] if u.trusted else ["does not count until more gold is answered right"])):
            console.print(plain(f"{u.name}: {flag}"))
    if figures.eyes.answers:
        console.print(_eyes(figures))
    costs = Table(title="time and cost by class", title_justify="left", title_style="bold")
    for column in ("class", "answers", "drawn", "hours", "masks", "s / mask", *(["per mask"] if figures.wage else [])):
        costs.add_column(column, justify="left" if column == "class" else "right", overflow="fold")
    for c in figures.classes:
        costs.add_row(
            plain(c.name), str(c.pace.answers), str(c.drawn.answers), _hours(figures, c.seconds), str(c.masks),
            _plain(c.seconds_per_mask), *([money(figures.cost(c.seconds_per_mask))] if figures.wage else []),
        )  # fmt: skip
    console.print(costs)
    drawing = figures.cost(PUBLISHED_DRAWING)
    per_mask = f" costing {money(figures.cost(figures.seconds_per_mask))}" if figures.wage else ""
    console.print(
        f"{_hours(figures, figures.seconds)} hours, {_plain(figures.pace.per_answer)} s per answer "
        f"(published {PUBLISHED_ANSWER:g}), {_plain(figures.seconds_per_mask)} s per mask{per_mask} "
        f"(drawing one: {PUBLISHED_DRAWING:g} s{'' if drawing is None else f' costing {drawing:.2f}'})",
        highlight=False,
    )


def _eyes(figures: Team) -> Table:
    from rich.table import Table

    from campaign.cli.output import plain

    shown = Table(title=f"yes by true IoU (correct from {figures.k_iou:g})", title_justify="left", title_style="bold")
    for column in ("annotator", "gold", "cut", "width", "passes", "misses"):
        shown.add_column(column, justify="left" if column == "annotator" else "right", overflow="fold")
    curves = [(u.name, u.eye.answers, u.eye.eye, u.eye.low, u.eye.high) for u in figures.users if u.eye]
    curves.append(("all", figures.eyes.answers, figures.eyes.crowd, *figures.eyes.cut_interval))
    for name, answers, eye, low, high in curves:
        shown.add_row(
            plain(name), str(answers), f"{eye.cut:.3f} ({low:.3f}–{high:.3f})", f"{eye.width:.3f}",
            f"{eye.pass_rate:.1%}", f"{eye.miss_rate:.1%}",
        )  # fmt: skip
    return shown


def _share(value: Rate | None) -> str:
    return "–" if value is None else f"{value.value:.0%} ({value.low:.0%}–{value.high:.0%})"


def _hours(figures: Team, seconds: float) -> str:
    """Hours, with what they cost where a wage is set."""
    cost = figures.cost(seconds)
    return f"{seconds / 3600:.2f}" + ("" if cost is None else f" ({cost:.2f})")


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


COMMANDS = (invite, qualify, annotators)
