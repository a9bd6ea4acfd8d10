"""A connection to Label Studio: the official SDK, with bounded retries and one-line errors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlparse

from ml_backend.errors import InputError, Unavailable

if TYPE_CHECKING:
    import httpx
    from label_studio_sdk import LabelStudio

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds between the attempts of one request: an interruption of about eight seconds is sat out.
RETRY_DELAYS = (0.25, 0.5, 1.0, 2.0, 4.0)
# Of the 4xx answers only these may turn out otherwise when asked again.
SLOW = 4.5  # seconds for an answer; a page of a thousand tasks takes three
RETRIED_STATUS = frozenset({408, 425, 429})
PAGE_SIZE = 1000
LONGEST_PAGE = 500  # tasks of a page that is as long as its bytes allow: what a page costs beside them is spread thin


class LabelStudioError(InputError):
    """Label Studio did not do what was asked of it; one line says what."""


class LabelStudioUnavailable(LabelStudioError, Unavailable):  # noqa: N818
    """No Label Studio answers at this address, or it keeps failing. Worth trying again later."""


class LabelStudioUnauthorized(LabelStudioError, Unavailable):  # noqa: N818
    """Label Studio refuses the token, or the token's user may not do this: until another token is given."""


class ProjectGone(LabelStudioError):  # noqa: N818
    """The project does not exist (any more), or the token's user cannot see it."""


class Client:
    """Label Studio at `url`, spoken to as the owner of `token` (a legacy token or a personal access token).

    `retry_delays` are the seconds to wait between attempts where the connection fails or the answer is a 5xx.
    Requests that would do something twice when sent twice are sent once. Safe to share between threads.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 60.0, retry_delays: tuple[float, ...] = RETRY_DELAYS):
        parsed = urlparse(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise InputError("Label Studio URL", "http://host or https://host", repr(url))
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InputError(
                "Label Studio token", "an access token of printable characters", "none" if not token else "another text"
            )
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retry_delays = retry_delays
        self._token = token
        # Label Studio's own time, as its newest answer to `request` stated it.
        self.server_time: datetime | None = None
        # Bytes of its newest answer to `request`.
        self.answer_bytes = 0
        self._said_slow = False

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    @cached_property
    def sdk(self) -> LabelStudio:
        """The SDK's client. Its own retries are off: it would send an import twice."""
        import httpx
        from label_studio_sdk import LabelStudio

        # A proxy meant for the outside world must not be asked for the machine's own servers.
        return LabelStudio(
            # The trailing slash keeps a path prefix when the SDK joins the address of its token refresh.
            base_url=self.url + "/",
            api_key=self._token,
            httpx_client=httpx.Client(timeout=self.timeout, follow_redirects=True, trust_env=not is_local(self.url)),
            timeout=self.timeout,
            max_retries=0,
        )

    def access_token(self) -> str:
        """The token to send with a request made outside of the SDK: the legacy token, or a short-lived one."""
        return self.call(lambda sdk: sdk._client_wrapper._tokens_client.api_key)

    def call(self, function: Callable[[LabelStudio], T], *, thing: str | None = None, repeatable: bool = True) -> T:
        """What `function(sdk)` returns, tried again where that may help.

        With `repeatable=False` it is tried again only where the request cannot have arrived. `thing` names what is
        asked for in errors. Raises LabelStudioUnavailable, LabelStudioUnauthorized, ProjectGone (a 404 of
        "project …") or LabelStudioError.
        """
        import httpx
        from label_studio_sdk.core.api_error import ApiError

        thing = thing or self.url
        for delay in (*self.retry_delays, None):
            began = time.monotonic()
            try:
                answer = function(self.sdk)
                self._note_pace(time.monotonic() - began)
                return answer
            except httpx.ConnectError as error:
                problem: LabelStudioError = LabelStudioUnavailable(self.url, "a running Label Studio", error)
            except httpx.TransportError as error:
                problem = LabelStudioUnavailable(self.url, "an answer", f"{type(error).__name__} {error}")
                delay = delay if repeatable else None
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
                # A proxy's page that says that the server behind it is away.
                problem = LabelStudioUnavailable(self.url, "a Label Studio server", "an answer that is no JSON")
                delay = delay if repeatable else None
            except ApiError as error:
                status = error.status_code or 0
                problem = self._problem(thing, status, error.body)
                if not (status >= 500 or status in RETRIED_STATUS) or (status >= 500 and not repeatable):
                    delay = None
            if delay is None:
                raise problem from None
            logger.debug("%s; trying again in %s s", problem, delay)
            time.sleep(delay)
        raise AssertionError("unreachable")

    def request(
        self,
        method: str,
        path: str,
        *,
        thing: str | None = None,
        params: dict[str, Any] | None = None,
        body: Any = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
    ) -> Any:
        """The decoded JSON answer to a request that the SDK has no method for, or parses too slowly.

        Errors as in `call`; a GET is repeatable unless said otherwise.
        """
        from label_studio_sdk.core.api_error import ApiError

        options: Any = {"timeout_in_seconds": timeout} if timeout else None

        def send(sdk: LabelStudio) -> Any:
            response: httpx.Response = sdk._client_wrapper.httpx_client.request(
                path, method=method, params=params, json=body, request_options=options
            )
            self.server_time = _stated_time(response.headers.get("date")) or self.server_time
            self.answer_bytes = len(response.content)
            if not 200 <= response.status_code < 300:
                raise ApiError(status_code=response.status_code, body=_body(response))
            return response.json() if response.content else None

        return self.call(send, thing=thing, repeatable=method == "GET" if repeatable is None else repeatable)

    def check(self) -> str:
        """The version of the running Label Studio, once it has taken the token."""
        answer = self.request("GET", "api/version")
        if not isinstance(answer, dict) or "release" not in answer:
            raise LabelStudioError(self.url, "a Label Studio server", "another server")
        self.call(lambda sdk: sdk.users.whoami())
        return str(answer["release"])

    def project(self, project_id: int) -> dict[str, Any]:
        """The project's settings, its labeling config among them. Raises ProjectGone."""
        thing = f"project {project_id}"
        known = self.request("GET", f"api/projects/{project_id}/", thing=thing)
        if not isinstance(known, dict) or not isinstance(known.get("label_config"), str):
            raise LabelStudioError(thing, "the settings of a project", type(known).__name__)
        return known

    def users(self) -> dict[int, str]:
        """Every member's email by user id."""
        listed = self.request("GET", "api/users/")
        if not isinstance(listed, list):
            raise LabelStudioError(self.url, "a list of users", type(listed).__name__)
        return {
            user["id"]: str(user.get("email"))
            for user in listed
            if isinstance(user, dict) and type(user.get("id")) is int
        }

    def tasks(
        self,
        project_id: int,
        include: str,
        *,
        after: int = 0,
        filters: list[dict[str, Any]] | None = None,
        annotations: bool = False,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[dict[str, Any]]:
        """The project's tasks with an id above `after`, by id, with only the fields named in `include`.

        `annotations` must be set where `include` names annotations or predictions.
        """
        pages = self.task_pages(
            project_id, include, after=after, filters=filters, annotations=annotations, page_size=page_size
        )
        return (task for page in pages for task in page)

    def task_pages(
        self,
        project_id: int,
        include: str,
        *,
        after: int = 0,
        filters: list[dict[str, Any]] | None = None,
        annotations: bool = False,
        page_size: int = PAGE_SIZE,
        page_bytes: int | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """What `tasks` returns, in the pages in which it comes: of `page_size` tasks.

        With `page_bytes` the first page is of `page_size` tasks, and each is up to twice as long as the one before, of
        at most `LONGEST_PAGE` tasks, as far as it has no more bytes than that by what that one had.

        Pages go by the last id seen and not by number, so that tasks that appear, change or vanish meanwhile
        neither double nor hide others.
        """
        while True:
            beyond = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after}
            page = self.request(
                "GET",
                "api/tasks/",
                thing=f"project {project_id}",
                params={
                    "project": project_id,
                    "page_size": page_size,
                    "include": include,
                    "resolve_uri": "false",
                    **({"fields": "all"} if annotations else {}),
                    "query": json.dumps(
                        {
                            "filters": {"conjunction": "and", "items": [beyond, *(filters or [])]},
                            "ordering": ["tasks:id"],
                        }
                    ),
                },
            )
            tasks, asked = _listed(page, f"tasks of project {project_id}", after), page_size
            if page_bytes:
                fit = page_bytes * asked // max(self.answer_bytes, 1)
                page_size = max(1, min(fit, 2 * asked, LONGEST_PAGE))
            if tasks:
                yield tasks
            if len(tasks) < asked:
                return
            after = tasks[-1]["id"]

    def _note_pace(self, seconds: float) -> None:
        """Says once that answers are slow: nothing fails, so nothing else would."""
        if seconds >= SLOW and not self._said_slow:
            self._said_slow = True
            logger.warning(
                "Label Studio at %s took %.1f s for an answer; the campaign goes on, slower: has its machine too much "
                "to do, or its database too little room? answers given meanwhile are read", self.url, seconds,
            )  # fmt: skip

    def _problem(self, thing: str, status: int, body: Any) -> LabelStudioError:
        if status in (401, 403):
            expected = "a token that Label Studio accepts" if status == 401 else "a token that may do this"
            return LabelStudioUnauthorized(
                f"{self.url} {thing}" if thing != self.url else thing, expected, f"{status} {_detail(body)}"
            )
        if status == 404 and thing.startswith("project "):
            return ProjectGone(
                f"{self.url} {thing}", "a project that this token can see", "404, it was deleted or never was"
            )
        if status >= 500 or status in RETRIED_STATUS:
            return LabelStudioUnavailable(
                f"{self.url} {thing}" if thing != self.url else thing, "an answer", f"{status} {_detail(body)}"
            )
        return LabelStudioError(thing, "a request that Label Studio takes", f"{status} {_detail(body)}")


def _listed(page: Any, thing: str, after: int) -> list[dict[str, Any]]:
    """The tasks in an answer that was asked for those above an id; with any others it would go on for ever."""
    tasks = page.get("tasks") if isinstance(page, dict) else None
    if not isinstance(tasks, list):
        raise LabelStudioError(thing, "a list of tasks", type(page).__name__)
    for task in tasks:
        number = task.get("id") if isinstance(task, dict) else None
        if type(number) is not int or number <= after:
            raise LabelStudioError(thing, f"tasks with rising ids above {after}", type(number).__name__)
        after = number
    return tasks


def is_local(url: str) -> bool:
    """Whether an address is one of this machine's own."""
    return urlparse(url).hostname in ("localhost", "127.0.0.1", "::1")


def _stated_time(text: str | None) -> datetime | None:
    """The time that an answer's header states, None where it states none."""
    try:
        return parsedate_to_datetime(text).astimezone(timezone.utc) if text else None
    except ValueError:
        return None


def _body(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return response.text


def _detail(body: Any) -> str:
    """Label Studio's own words on an error, in at most 200 characters."""
    if isinstance(body, dict):
        detail = body.get("validation_errors") or body.get("detail") or body
        body = detail if isinstance(detail, str) else json.dumps(detail)
    text = " ".join(str(body).split())
    if text.startswith("<"):
        return "an HTML page"
    return text if len(text) <= 200 else text[:197] + "..."
