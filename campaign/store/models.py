"""Tables of the campaign's state. Answers are facts and never rewritten; decisions can be recomputed from them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite gives rising ids to INTEGER keys only.
Id = BigInteger().with_variant(Integer, "sqlite")


def now() -> datetime:
    """The present moment, UTC."""
    return datetime.now(timezone.utc)


class Base(DeclarativeBase):
    """Declarative base of all tables."""

    type_annotation_map = {dict[str, Any]: JSON, datetime: DateTime(timezone=True)}  # noqa: RUF012


class Meta(Base):
    """Single values: the campaign's key, the read-back cursor, the verification project."""

    __tablename__ = "meta"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[dict[str, Any]]


class Image(Base):
    """One image of the campaign. `id` is the campaign's own; `coco_id` is the id in the file it came from."""

    __tablename__ = "image"
    id: Mapped[int] = mapped_column(Id, primary_key=True)
    split: Mapped[str] = mapped_column(String(10), index=True)
    coco_id: Mapped[int] = mapped_column(BigInteger)
    file_name: Mapped[str] = mapped_column(Text)
    path: Mapped[str] = mapped_column(Text)
    width: Mapped[int]
    height: Mapped[int]
    source_task: Mapped[int | None] = mapped_column(BigInteger)
    __table_args__ = (Index("image_task", "source_task"),)


class ClassName(Base):
    """One class; `id` is the COCO category id."""

    __tablename__ = "class"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(Text, unique=True)


class Round(Base):
    """One pass of the loop and the stage it has reached."""

    __tablename__ = "round"
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    stage: Mapped[str] = mapped_column(String(20))
    model_version: Mapped[str | None] = mapped_column(String(100))
    checkpoint: Mapped[str | None] = mapped_column(Text)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    started_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]


class Shard(Base):
    """One finished shard of predictions."""

    __tablename__ = "shard"
    round: Mapped[int] = mapped_column(ForeignKey("round.number"), primary_key=True)
    split: Mapped[str] = mapped_column(String(10), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    images: Mapped[int]
    masks: Mapped[int]
    seconds: Mapped[float]


class Bundle(Base):
    """Predictions of the shards [first, end) by class; `classes` has their `ids` and how many `masks` each has.

    Made of shards, and may be dropped at any time.
    """

    __tablename__ = "bundle"
    round: Mapped[int] = mapped_column(ForeignKey("round.number"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    first: Mapped[int]
    end: Mapped[int]
    masks: Mapped[int]
    classes: Mapped[dict[str, Any]]


class ClassTree(Base):
    """The tree of one class in one round, with the thresholds its search uses.

    `generation` counts the trees that the class has had in that round: numbers of clusters are those of one generation.
    """

    __tablename__ = "class_tree"
    round: Mapped[int] = mapped_column(ForeignKey("round.number"), primary_key=True)
    class_id: Mapped[int] = mapped_column(ForeignKey("class.id"), primary_key=True)
    masks: Mapped[int]
    known: Mapped[int]
    thresholds: Mapped[dict[str, Any]]
    searched: Mapped[bool] = mapped_column(default=False)
    generation: Mapped[int] = mapped_column(default=0, server_default="0")


class JoinedTree(Base):
    """A tree that new masks joined, whole in its folder, before it and those of all other classes count.

    `generation` is the one that it will be, or the standing one where the class has no new masks.
    """

    __tablename__ = "joined_tree"
    round: Mapped[int] = mapped_column(ForeignKey("round.number"), primary_key=True)
    class_id: Mapped[int] = mapped_column(ForeignKey("class.id"), primary_key=True)
    generation: Mapped[int]
    masks: Mapped[int]
    known: Mapped[int]


class Decision(Base):
    """What was decided about a cluster, with the evidence it rests on. Derived from answers."""

    __tablename__ = "decision"
    round: Mapped[int] = mapped_column(Integer, primary_key=True)
    class_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    cluster: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    rule: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    asked: Mapped[int]
    yes: Mapped[int]
    quality: Mapped[float | None]
    lower_bound: Mapped[float | None]
    mean_score: Mapped[float]
    decided_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        Index("decision_kind", "round", "class_id", "kind", "size", "asked"),
        Index("decision_size", "round", "class_id", "size"),
    )


class Page(Base):
    """One page of questions, or of something to draw. `task_id` is set once Label Studio holds it.

    `number` counts the pages in the order they were opened: views read on from the number they have seen. `name` is
    what the page is called in Label Studio, drawn by chance; unset where its task bears the key, as it was before.

    `screen` is the labeling config that shows it. `place` says where something is to be drawn, where no mask does:
    {"image_id", "window": [x0, y0, x1, y1]}, and what `campaign.pages.completeness` adds to it.
    """

    __tablename__ = "page"
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(32))
    number: Mapped[int] = mapped_column(BigInteger, nullable=True)  # SQLite adds no other column to a table
    round: Mapped[int]
    class_id: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20), default="verify")
    screen: Mapped[str] = mapped_column(String(20), default="verification")
    place: Mapped[dict[str, Any] | None]
    task_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        Index("page_number", "number", unique=True),
        Index("page_class", "round", "class_id", "kind"),
        Index("page_kind", "kind", "number"),
        Index("page_name", "name"),
    )


class Question(Base):
    """One mask on one page.

    `cluster` is the cluster that it samples; unset for an audit and for gold. `gold` is the known verdict of gold.
    `name` is what the mask is called on this page in Label Studio, drawn by chance: on another page it has another, and
    nothing follows from it. The masks of a page are shown in the order of their names. Unset where the task names the
    mask by its id, as it was before.
    """

    __tablename__ = "question"
    page_key: Mapped[str] = mapped_column(ForeignKey("page.key"), primary_key=True)
    mask_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    cluster: Mapped[int | None] = mapped_column(BigInteger)
    gold: Mapped[str | None] = mapped_column(String(10))
    name: Mapped[str | None] = mapped_column(String(16))
    __table_args__ = (
        Index("question_mask", "mask_id"),
        Index("question_gold", "page_key", sqlite_where=gold.is_not(None), postgresql_where=gold.is_not(None)),
    )


class Answer(Base):
    """A fact: what an annotation said of a mask when it was read. A deletion is the fact `withdrawn`."""

    __tablename__ = "answer"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    page_key: Mapped[str] = mapped_column(String(64), index=True)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    mask_id: Mapped[int] = mapped_column(BigInteger, index=True)
    annotator: Mapped[str] = mapped_column(Text)
    verdict: Mapped[str] = mapped_column(String(10))
    answered_at: Mapped[str] = mapped_column(String(40))
    lead_time: Mapped[float | None]
    read_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (
        UniqueConstraint("annotation_id", "mask_id", "answered_at", "verdict"),
        Index("answer_annotator", "annotator"),
        Index(
            "answer_withdrawn", "annotation_id",
            sqlite_where=verdict == "withdrawn", postgresql_where=verdict == "withdrawn",
        ),
    )  # fmt: skip


class Drawing(Base):
    """A fact: what an annotation drew when it was read. A deletion is the fact `withdrawn`.

    On an edit page `mask_id` is the mask to be corrected and `state` corrected, none or unsure; on a paint page the
    state is painted. `masks` holds {"masks": [{"class_id", "size": [height, width], "counts"}, ...]}. On a page that
    asks what is missing the state is complete, missing or unsure, and `masks` also holds {"points": [{"class_id", "x",
    "y"}, ...]}, in pixels of the image.
    """

    __tablename__ = "drawing"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    page_key: Mapped[str] = mapped_column(String(64), index=True)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    mask_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    image_id: Mapped[int] = mapped_column(BigInteger)
    annotator: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(10))
    masks: Mapped[dict[str, Any]]
    answered_at: Mapped[str] = mapped_column(String(40))
    lead_time: Mapped[float | None]
    read_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("annotation_id", "answered_at", "state"),)


class ClickFact(Base):
    """A fact: one step of a correction by clicks, as it stood when its annotation was read.

    `answered_at` is the annotation's, as in its drawing. `number` counts the steps of an annotation from 0. `kind` is
    "box", "positive" or "negative"; `x` and `y` are the place of a click, or with `x1` and `y1` the corners of a box,
    in pixels of the image. `clicked_at` is when it was made, in seconds since 1970. `before` and `after` are the masks
    {"size": [height, width], "counts"}, unset where the server no longer knew them.
    """

    __tablename__ = "click"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    page_key: Mapped[str] = mapped_column(String(64), index=True)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    annotator: Mapped[str] = mapped_column(Text)
    answered_at: Mapped[str] = mapped_column(String(40))
    number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10))
    x: Mapped[float]
    y: Mapped[float]
    x1: Mapped[float | None]
    y1: Mapped[float | None]
    clicked_at: Mapped[float | None]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    predicted_iou: Mapped[float | None]
    model_version: Mapped[str | None] = mapped_column(String(100))
    read_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("annotation_id", "answered_at", "number"),)


class SetAside(Base):
    """A fact: something in Label Studio that no answer was made of, and why (`campaign.store.aside.Reason`).

    `annotator` is whose answer it says to be, `editor` who changed it last as far as Label Studio says, `at` its
    time of the change, `what` more of it in words, of printable characters.
    """

    __tablename__ = "set_aside"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    reason: Mapped[str] = mapped_column(String(10))
    task_id: Mapped[int] = mapped_column(BigInteger)
    page_key: Mapped[str | None] = mapped_column(String(64), index=True)
    annotation_id: Mapped[int] = mapped_column(BigInteger)
    annotator: Mapped[str] = mapped_column(Text)
    editor: Mapped[str] = mapped_column(Text)
    at: Mapped[str] = mapped_column(String(40))
    what: Mapped[str] = mapped_column(String(200))
    read_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("reason", "task_id", "annotation_id", "at"),)


class Override(Base):
    """A fact: from then on the lead wants a cluster decided so. `kind` unset takes an earlier one back."""

    __tablename__ = "override"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=now)
    round: Mapped[int]
    class_id: Mapped[int]
    cluster: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str | None] = mapped_column(String(10))
    __table_args__ = (Index("override_tree", "round", "class_id"),)


class View(Base):
    """Derived: how far a view has read the facts, what it found in short, and the file of its snapshot.

    `version` names what the view depends on beside the facts: its own form, settings. May be dropped at any time.
    """

    __tablename__ = "view"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[str] = mapped_column(String(64))
    cursor: Mapped[dict[str, Any]]
    summary: Mapped[dict[str, Any]]
    file: Mapped[str | None] = mapped_column(Text)


class Object(Base):
    """A file of a campaign at a URL: the object that it is, and that object's length and BLAKE2b, 16 bytes in hex.

    `name` is its path in a machine's folder. An object that no row names belongs to nobody.
    """

    __tablename__ = "object"
    # Files are looked for by the folders they are in.
    __table_args__ = (Index("object_folder", "name", postgresql_ops={"name": "text_pattern_ops"}),)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    object: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(32))
    committed_at: Mapped[datetime] = mapped_column(default=now)


class Point(Base):
    """A fact: what the campaign said of itself at the end of a turn; see `campaign.records.course.Point`.

    It cannot be worked out again: answers that are withdrawn later, and eyes that are known better, change what follows
    from the facts of that time.
    """

    __tablename__ = "course"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=now)
    round: Mapped[int]
    attempt: Mapped[int | None]
    target: Mapped[float]
    questions: Mapped[int]
    seconds: Mapped[float]
    masks: Mapped[int]
    precision: Mapped[float | None]
    precision_low: Mapped[float | None]
    precision_high: Mapped[float | None]
    promised: Mapped[float | None]
    recall: Mapped[float | None]
    recall_low: Mapped[float | None]
    recall_high: Mapped[float | None]
    looked: Mapped[int]
    recall_looked: Mapped[float | None]
    recall_promised: Mapped[float | None]


class Event(Base):
    """A line of the campaign's log that a lead should see."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(Id, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=now)
    text: Mapped[str] = mapped_column(Text)
