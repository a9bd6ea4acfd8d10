"""Settings of a campaign: what a lead chooses, with defaults from the published systems."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ml_backend.errors import InputError, expected_words


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


def is_web_address(value: str) -> bool:
    """Whether a text is an address that begins with http:// or https://."""
    try:
        parsed = urlparse(value)
        return parsed.scheme in ("http", "https") and bool(parsed.hostname) and (parsed.port or 1) > 0
    except ValueError:
        return False


def _web_address(value: str) -> str:
    if not is_web_address(value):
        raise ValueError("an address that begins with http:// or https://")
    return value


WebAddress = Annotated[str, AfterValidator(_web_address)]


class DetectorSettings(_Section):
    """Which detector predicts the masks."""

    name: str = Field("torchvision", description="entry point in the group campaign.detectors")
    options: dict[str, Any] = Field(default_factory=dict, description="options of that detector, its preset first")
    keep: float | None = Field(
        None, ge=0, le=1, description="least score of a mask that is kept, 0 keeps all; unset: learned per class"
    )


class SearchSettings(_Section):
    """How precise the dataset is to be, and how that is reached: which masks are asked about, and when that is enough.

    `n_s`, `k_a`, `k_pr`, `k_pa` and `ask_ahead` are for the policies that decide cluster by cluster (Papadopoulos et
    al., Algorithm 1).
    """

    policy: Literal["target", "adaptive", "paper", "curtailed"] = Field(
        "target",
        description="rule that says which masks to ask about: for the target over all, or cluster by cluster",
    )
    precision: float = Field(
        0.9, gt=0.5, lt=1, description="policy target: share of the exported masks that is to be correct, at least"
    )
    confidence: float = Field(
        0.95, ge=0.5, lt=1, description="policy target: how certain the promise of that precision is to be"
    )
    precision_per_class: float | None = Field(
        None,
        gt=0.5,
        lt=1,
        description="policy target: share of every class by itself that is to be correct; unset: none",
    )
    price: float = Field(
        0.6, gt=0, le=100, description="policy target: correct masks that a question must bring to be asked"
    )
    n_s: int = Field(15, ge=1, le=1000, description="masks sampled from a cluster")
    k_iou: float = Field(0.75, gt=0, lt=1, description="a mask is correct at this IoU with the true mask")
    k_a: float = Field(
        0.85, gt=0.5, le=1, description="other policies: a cluster is accepted at this estimated quality"
    )
    k_pr: float | None = Field(None, ge=0, le=1, description="reject at or below this mean score; unset: learned")
    k_pa: float | None = Field(None, ge=0, le=1, description="split at or below this mean score; unset: learned")
    ask_ahead: bool = Field(
        True, description="without a budget, ask early what is likely wanted next, so that annotators wait less"
    )
    budget_questions: int | None = Field(None, ge=0, description="questions that the campaign may ask; unset: no limit")
    budget_hours: float | None = Field(None, ge=0, description="hours that annotators may work; unset: no limit")
    budget_money: float | None = Field(None, ge=0, description="what their work may cost, at `quality.wage_per_hour`")
    seconds_per_answer: float = Field(2.0, gt=0, description="time of an answer, until 100 of them were measured")


class ForecastSettings(_Section):
    """What is forecast before the first question, and when a class waits for the lead instead of being asked about."""

    wait: bool = Field(True, description="whether hopeless classes wait for the lead; `campaign run --go-on` overrides")
    least_recall: float = Field(
        0.05, ge=0, le=1, description="share of the expected objects that can be obtained, below which it is hopeless"
    )
    seconds_per_drawn_mask: float = Field(
        80.0, gt=0, description="time of drawing a mask by hand; a class whose correct masks take more is hopeless"
    )


class ClusteringSettings(_Section):
    """How trees are built; `campaign.clustering` says which engine runs when and what it costs."""

    engine: Literal["auto", "exact", "approximate"] = Field("auto", description="auto: exact as far as it reaches")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N; auto: CUDA where there is a GPU"
    )
    memory_gib: float | None = Field(None, gt=0, description="memory of one run; unset: four fifths of what is free")


class RoundSettings(_Section):
    """How rounds follow one another."""

    rounds: int = Field(2, ge=1, le=8000, description="most rounds; it ends earlier when a round finds nothing new")
    least_new: float = Field(0.01, ge=0, le=1, description="a round that adds a smaller share of masks is the last")
    train_images: int = Field(
        100_000, ge=1, description="most images with masks of earlier rounds that one training sees; drawn beyond"
    )
    complete_images: int = Field(
        0, ge=0, description="images that people look through for what is missing, when a round is verified"
    )
    correct: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="share of the annotators' time for corrections by clicks, after each round; 0: none",
    )
    dedupe_iou: float = Field(0.5, gt=0, le=1, description="of two masks of a class that overlap more, one stays")


class CorrectSettings(_Section):
    """Corrections by clicks (Benenson, Popov, Ferrari: three visits of at most four clicks)."""

    segmenter: str = Field("click", description="entry point in the group campaign.segmenters")
    checkpoint: str | None = Field(None, description="file of its weights; unset: the newest trained in this campaign")
    visits: int = Field(1, ge=1, le=10, description="times that a mask is put before annotators until it is left as is")
    clicks: int | None = Field(None, ge=1, le=64, description="most clicks of one visit; unset: 64")
    seconds: float = Field(20.0, gt=0, le=600, description="time of a correction, until 20 of them were measured")


class PageSettings(_Section):
    """The verification page."""

    language: Literal["en", "de"] = Field(
        "en", description="language of what annotators read; set before the first page"
    )
    page_size: int = Field(15, ge=1, le=15, description="masks on one page; one key each")
    public_url: WebAddress = Field(
        "http://127.0.0.1:9090", description="address at which annotators' browsers reach us"
    )
    this_machine_without_password: bool = Field(
        False, description="programs on this machine need no password; only where no reverse proxy runs on it"
    )
    pages_ahead: int = Field(
        2,
        ge=0,
        le=10,
        description="pages after the one on the screen whose crops are drawn and loaded ahead, per annotator",
    )
    change_hours: float = Field(
        24, ge=0, le=8760, description="hours after a page was submitted in which its annotator may change it"
    )
    crops_mib: int = Field(64, ge=1, description="memory for crops of pages that are kept drawn")
    url_days: float = Field(30, gt=0, description="days that a crop's signed address stays valid")
    single_classes: list[str] = Field([], description="difficult classes, asked one mask at a time in its whole image")
    single_audits: bool = Field(False, description="audits ask one mask at a time in its whole image")
    annotators: int = Field(1, ge=1, le=1000, description="who begin together: pages for all, before they answered")


class QualitySettings(_Section):
    """How far annotators are trusted, and how that is found out."""

    gold_share: float = Field(0.1, ge=0, le=0.5, description="share of a page that is gold, once a user is known")
    gold_opening: int = Field(
        30, ge=0, description="clear gold answers that make a user known; till then half the page"
    )
    overlap_share: float = Field(0.0, ge=0, le=1, description="share of the pages that two users answer")
    error_accepted: float = Field(0.06, gt=0, lt=0.5, description="share of gold answered wrong that is borne with")
    error_limit: float = Field(0.22, gt=0, lt=1, description="share at which a user's recent answers are withdrawn")
    qualification: bool = Field(False, description="only the answers of users who passed the test count")
    qualification_pages: int = Field(10, ge=1, le=100, description="pages of the test that `campaign qualify` makes")
    practice_pages: int = Field(3, ge=1, le=100, description="pages of a practice of `campaign qualify --practice`")
    qualification_limit: float = Field(0.85, gt=0.5, le=1, description="share of the test to be right")
    wage_per_hour: float | None = Field(None, ge=0, description="what an annotator's hour costs; unset: hours alone")
    seconds_least: float = Field(0.2, ge=0, description="seconds per answer below which a page is flagged as too fast")
    seconds_most: float = Field(60.0, gt=0, description="seconds per answer that a page is believed to take at most")


class JobSettings(_Section):
    """Queues, shards and time limits."""

    redis_url: str | None = Field(
        None, description="Redis of the queues, its password elsewhere; unset: an embedded one in the folder"
    )
    database_url: str | None = Field(
        None, description="SQL database, its password elsewhere; unset: SQLite in the folder"
    )
    shard_images: int = Field(32, ge=1, description="images of one shard of predictions")
    train_timeout: int = Field(7 * 86400, ge=60, description="seconds")
    job_timeout: int = Field(3600, ge=10, description="seconds, for every other job")
    retries: int = Field(3, ge=0, le=20, description="times that a failed job is run again")
    retry_seconds: float = Field(5, ge=0, description="pause before the first of these; each further one is doubled")
    json_logs: bool = Field(False, description="log lines are JSON objects, one a line, for programs that collect them")
    poll_seconds: float = Field(5, gt=0, description="pause between two looks at what webhooks may have missed")


class LabelStudioSettings(_Section):
    """The running Label Studio. The token is no setting: it comes from the environment or a prompt."""

    url: WebAddress | None = Field(None, description="address of Label Studio")
    source_project: int | None = Field(
        None, description="the team's project; only read, but for `campaign export --to-label-studio`"
    )


class CampaignSettings(_Section):
    """All settings of one campaign, as `campaign.json` holds them."""

    name: str = Field(min_length=1, max_length=100, description="shown to annotators and in the report")
    seed: int = Field(0, ge=0, description="the same seed and answers give the same dataset")
    detector: DetectorSettings = DetectorSettings()
    clustering: ClusteringSettings = ClusteringSettings()
    search: SearchSettings = SearchSettings()
    forecast: ForecastSettings = ForecastSettings()
    rounds: RoundSettings = RoundSettings()
    correct: CorrectSettings = CorrectSettings()
    page: PageSettings = PageSettings()
    quality: QualitySettings = QualitySettings()
    jobs: JobSettings = JobSettings()
    label_studio: LabelStudioSettings = LabelStudioSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> CampaignSettings:
        if self.search.budget_money is not None and not self.quality.wage_per_hour:
            raise InputError("quality.wage_per_hour", "a wage, which search.budget_money needs", "none")
        k_pr, k_pa = self.search.k_pr, self.search.k_pa
        if k_pr is not None and k_pa is not None and k_pr > k_pa:
            raise InputError("search.k_pr", f"no more than search.k_pa, {k_pa}", k_pr)
        return self


Split = Literal["labelled", "pool", "heldout"]
SPLITS: tuple[Split, ...] = ("labelled", "heldout", "pool")  # in the order in which images are numbered


def parse_settings(values: dict[str, Any], origin: str | Path) -> CampaignSettings:
    """Settings from plain values. Raises InputError that names the first bad one, and of an unknown one the nearest."""
    try:
        return CampaignSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):  # of settings that do not fit together
            raise InputError(f"{origin} {cause.thing}", cause.expected, cause.got) from None
        got = "nothing" if first["type"] == "missing" else repr(first["input"])[:60]
        raise InputError(f"{origin} {name}", _expected(first, name), got) from None


def _expected(error: ErrorDetails, name: str) -> str:
    """What a setting should have been, in plain words."""
    if error["type"] == "extra_forbidden":
        # Of an unknown group the names in it say more than its own.
        inner = next(iter(error["input"]), "") if isinstance(error["input"], dict) else ""
        return f"a known setting (the nearest is {nearest_setting(f'{name}.{inner}' if inner else name)})"
    if error["type"] == "string_pattern_mismatch":
        return next(meaning for known, _, meaning in documented_settings() if known == name)
    return expected_words(error)


def nearest_setting(name: str) -> str:
    """The known setting whose name is most like this one.

    >>> nearest_setting("search.kiou")
    'search.k_iou'
    >>> nearest_setting("budget_question")
    'search.budget_questions'
    """

    def likeness(known: str) -> float:
        own = known.rpartition(".")[2]
        return max(SequenceMatcher(None, name, known).ratio(), SequenceMatcher(None, name, own).ratio())

    return max((known for known, _, _ in documented_settings()), key=likeness)


def documented_settings() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, for the documentation and its test."""
    rows: list[tuple[str, str, str]] = []
    for name, section in CampaignSettings.model_fields.items():
        inner = section.annotation
        if isinstance(inner, type) and issubclass(inner, _Section):
            for key, value in inner.model_fields.items():
                default = value.get_default(call_default_factory=True)
                rows.append((f"{name}.{key}", "unset" if default is None else str(default), value.description or ""))
        else:
            default = "required" if section.is_required() else str(section.default)
            rows.append((name, default, section.description or ""))
    return rows
