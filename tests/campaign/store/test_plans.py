"""How the databases find what a turn asks for: by an index, however many answers, questions and pages there are."""

from __future__ import annotations

import pytest
from PIL import Image
from sqlalchemy import event, text

from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.store.models import Base
from ml_backend.masks.coco import CocoDataset, ImageRecord

pytestmark = pytest.mark.slow

ROWS, OF_PAGE = 1_000_000, 20
NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})",
    "postgresql": "WITH numbers AS (SELECT generate_series(1, {count}) AS n)",
}
TABLES = {
    "page": (
        ROWS // OF_PAGE,
        "INSERT INTO page (key, name, number, round, class_id, kind, screen, task_id, created_at) {numbers} SELECT "
        "'p' || n, 'n' || n, n, 1, n % 100, CASE WHEN n % 1000 = 0 THEN 'edit' ELSE 'verify' END, "
        "CASE WHEN n % 1000 = 0 THEN 'edit' ELSE 'verification' END, "
        "CASE WHEN n > {count} - 100 THEN NULL ELSE n END, CURRENT_TIMESTAMP FROM numbers",
    ),
    "question": (
        ROWS,
        "INSERT INTO question (page_key, mask_id, cluster, gold, name) {numbers} SELECT "
        f"'p' || (n / {OF_PAGE} + 1), n, 1, CASE WHEN n % 5000 = 0 THEN 'yes' END, 'm' || n FROM numbers "
        "WHERE n < {count}",
    ),
    "answer": (
        ROWS,
        "INSERT INTO answer (page_key, annotation_id, mask_id, annotator, verdict, answered_at, read_at) {numbers} "
        f"SELECT 'p' || (n / {OF_PAGE} + 1), n / {OF_PAGE}, n, 'a' || (n % 1000), "
        "CASE WHEN n % 5000 = 0 THEN 'withdrawn' ELSE 'yes' END, 't' || n, CURRENT_TIMESTAMP FROM numbers",
    ),
}
KEYS, MASKS = [f"p{n}" for n in range(100, 110)], list(range(2000, 2010))
# What a turn asks of the store; those of a class or a kind read as much as it has, by an index.
QUERIES = {
    "newest answer": lambda s: s.answers.newest(),
    "answers after one": lambda s: s.answers.after(ROWS - 50),
    "answers on pages": lambda s: s.answers.rows(KEYS),
    "answers on masks": lambda s: s.answers.on_masks(MASKS),
    "answers that were stored": lambda s: s.answers.add(
        [
            {
                "page_key": "p5",
                "annotation_id": 4,
                "mask_id": 90,
                "annotator": "a1",
                "verdict": "no",
                "answered_at": "t0",
                "lead_time": None,
            }
        ]
    ),
    "masks of an annotator": lambda s: s.answers.masks_of("a7"),
    "newest page": lambda s: s.pages.newest(),
    "pages by key": lambda s: s.pages.some(KEYS),
    "a page by number": lambda s: s.pages.numbered(77),
    "pages of tasks": lambda s: s.pages.of_tasks([5, 6]),
    "pages by name": lambda s: s.pages.named(["n7", "p8"]),
    "unpublished pages": lambda s: s.pages.rows(published=False),
    "newest task": lambda s: s.pages.newest_task(),
    "pages of a kind": lambda s: s.pages.rows(kind="edit"),
    "number of a kind's pages": lambda s: s.pages.count("edit"),
    "pages that were published": lambda s: s.pages.mark_published({f"p{ROWS // OF_PAGE}": ROWS}),
    "questions after a page": lambda s: s.questions.after(ROWS // OF_PAGE - 5),
    "questions on pages": lambda s: s.questions.on_pages(KEYS),
    "questions on masks": lambda s: s.questions.on_masks(MASKS),
    "questions of a kind": lambda s: s.questions.rows(kind="edit"),
    "number of a kind's questions": lambda s: s.questions.count("edit"),
    "gold of a kind": lambda s: s.questions.gold("edit"),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request, tmp_path_factory):
    """A campaign with a million answers and questions."""
    folder = tmp_path_factory.mktemp("plans")
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_server").database("plans")
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    pool = CocoDataset([ImageRecord(1, "a.png", 8, 6, folder / "a.png")], {1: "cell"})
    settings = CampaignSettings(name="plans", jobs={"database_url": url})
    store = Store.create(folder / "c", settings, {"pool": pool})
    indexes = [index for name in TABLES for index in Base.metadata.tables[name].indexes]
    with store.engine.begin() as connection:
        for index in indexes:  # to be built at once is many times faster
            index.drop(connection)
        for count, statement in TABLES.values():
            numbers = NUMBERS[request.param].format(count=count)
            connection.execute(text(statement.format(numbers=numbers, count=count)))
        for index in indexes:
            index.create(connection)
    if request.param == "postgresql":
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    yield store
    store.engine.dispose()


def plans(store, ask) -> list[str]:
    """What the database says of every statement of a call, in a line each."""
    statements = []

    def note(_connection, _cursor, statement, parameters, _context, many):
        statements.append((statement, parameters[0] if many else parameters))

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        ask(store)
    finally:
        event.remove(store.engine, "before_cursor_execute", note)
    word = "EXPLAIN QUERY PLAN" if store.engine.dialect.name == "sqlite" else "EXPLAIN"
    found = []
    with store.engine.connect() as connection:
        for statement, parameters in statements:
            if not statement.startswith("INSERT"):
                rows = connection.exec_driver_sql(f"{word} {statement}", parameters).all()
                found.append(f"{statement} => {[row[-1] for row in rows]}")
    return found


@pytest.mark.parametrize("ask", QUERIES.values(), ids=QUERIES.keys())
def test_no_query_of_a_turn_looks_at_every_row(full, ask):
    found = plans(full, ask)
    assert found
    for plan in found:
        for table in TABLES:
            assert f"SCAN {table}" not in plan and f"Seq Scan on {table}" not in plan, plan
