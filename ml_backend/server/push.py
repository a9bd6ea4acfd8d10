"""Predictions made after a request was answered, sent to Label Studio in batches."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from ml_backend.errors import InputError
from ml_backend.masks.regions import LabelMap
from ml_backend.server.backend import Backend, Project, parse_labels, task_number

log = logging.getLogger(__name__)

BATCH = 64
# Seconds before a request that Label Studio did not answer is sent again; a restart of it takes less in all.
PAUSES = (2.0, 8.0, 30.0)


class AnswerError(InputError):
    """Label Studio gave no answer, or an error."""

    @property
    def status(self) -> int:
        """The HTTP status, 0 where there was no answer."""
        return int(self.got) if self.got.isdigit() else 0

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed a little later."""
        return self.status == 0 or self.status == 429 or self.status >= 500


def push_predictions(
    backend: Backend,
    project: Project,
    label_config: str,
    tasks: list[dict],
    *,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Predicts on `tasks` and imports the predictions into their project; returns how many.

    Tasks that hold a prediction of the current version are left alone, so it may be run again after it was killed.
    Left out are tasks without a number, those whose image cannot be fetched, and those whose prediction Label Studio
    refuses. `progress` is called with each batch's size. Raises InputError where Label Studio cannot be reached for a
    while, or refuses altogether.
    """
    labels = parse_labels(label_config)
    # By their numbers, so that what Label Studio is asked about one batch says nothing of the others.
    numbered = sorted({task_number(task): task for task in tasks if task_number(task)}.items())
    left, sent = len(numbered), 0
    try:
        for start in range(0, len(numbered), batch):
            part = numbered[start : start + batch]
            sent += _push_batch(backend, project, labels, dict(part))
            left -= len(part)
            if progress:
                progress(len(part))
    except Exception:
        backend.metrics.push_failures.inc(left)
        raise
    return sent


class PushThread:
    """A queue inside this process, for a backend that runs without Redis. What waits is lost when it ends.

    Label Studio asks again at its next retrieve, so nothing is lost for good.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self._waiting: queue.Queue[tuple[Project, str, list[dict]]] = queue.Queue()
        self._known: set[tuple[str, int, int]] = set()
        self._left = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, project: Project, label_config: str, tasks: list[dict]) -> None:
        """Takes tasks in; those that wait already, or have no number, are not taken."""
        with self._lock:
            new = {_key(project, task): task for task in tasks if task_number(task)}
            new = {key: task for key, task in new.items() if key not in self._known}
            if not new:
                return
            self._known.update(new)
            self._left += len(new)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="push-predictions", daemon=True)
                self._thread.start()
        self._waiting.put((project, label_config, list(new.values())))

    def depth(self) -> int:
        """Batches that wait."""
        return -(-self._left // BATCH)

    def join(self) -> None:
        """Returns once nothing waits or runs."""
        self._waiting.join()

    def _progress(self, done: int) -> None:
        with self._lock:
            self._left -= done

    def _run(self) -> None:
        while True:
            project, label_config, tasks = self._waiting.get()
            try:
                push_predictions(self.backend, project, label_config, tasks, progress=self._progress)
            except Exception as error:  # the thread serves every project and must outlive each one's troubles
                log.warning("predictions of project %d could not be pushed: %s", project.id, error)
            finally:
                with self._lock:
                    self._known.difference_update(_key(project, task) for task in tasks)
                    self._left = len(self._known)
                self._waiting.task_done()


def _key(project: Project, task: dict) -> tuple[str, int, int]:
    return project.hostname, project.id, task_number(task)


def _push_batch(backend: Backend, project: Project, labels: LabelMap, tasks: dict[int, dict]) -> int:
    """Predicts on {number: task} and imports the answers; returns how many predictions."""
    version = backend.model.detector().version
    done = _predicted(project, version, tasks)
    missing = [task for number, task in tasks.items() if number not in done]
    answers = zip(missing, backend.predict_now(project, labels, missing), strict=True)
    rows = [{"task": task["id"], **answer} for task, answer in answers if isinstance(answer, dict)]
    return _import(backend, project, rows)


def _import(backend: Backend, project: Project, rows: list[dict]) -> int:
    """Imports predictions; where Label Studio refuses some of them, such as a deleted task's, the others."""
    pauses, sent = iter(PAUSES), 0
    while rows:
        try:
            _request(project, "POST", f"/api/projects/{project.id}/import/predictions", json=rows)
        except AnswerError as failure:
            if failure.status in (400, 413):
                return sent + _import_parts(backend, project, rows, failure)
            pause = next(pauses, None)
            if pause is None or not failure.passes:
                raise
            log.warning("%s; again in %.0f s", failure, pause)
            time.sleep(pause)
            # It may have taken them although its answer was lost.
            done = _predicted(project, rows[0]["model_version"], [row["task"] for row in rows])
            rows = [row for row in rows if row["task"] not in done]
            sent += _count(backend, len(done))
        else:
            return sent + _count(backend, len(rows))
    return sent


def _count(backend: Backend, pushed: int) -> int:
    backend.metrics.pushed_tasks.inc(pushed)
    return pushed


def _import_parts(backend: Backend, project: Project, rows: list[dict], refusal: AnswerError) -> int:
    if len(rows) == 1:
        log.warning("task %d: its prediction is left out: %s", rows[0]["task"], refusal)
        backend.metrics.push_failures.inc()
        return 0
    half = len(rows) // 2
    return _import(backend, project, rows[:half]) + _import(backend, project, rows[half:])


def _predicted(project: Project, version: str, numbers: Collection[int]) -> set[int]:
    """Those of the tasks with these numbers that hold a prediction of `version`."""
    done: set[int] = set()
    after = min(numbers) - 1
    while True:
        items = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after},
            {
                "filter": "filter:tasks:predictions_model_versions",
                "operator": "contains",
                "type": "List",
                "value": [version],
            },
            {"filter": "filter:tasks:id", "operator": "less_or_equal", "type": "Number", "value": max(numbers)},
        ]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        params = {"project": project.id, "page_size": 1000, "include": "id", "query": json.dumps(query)}
        page = _patiently(project, "GET", "/api/tasks/", params=params)["tasks"]
        done.update(int(task["id"]) for task in page)
        if len(page) < 1000:
            return done & set(numbers)
        after = page[-1]["id"]


def _patiently(project: Project, method: str, path: str, **what: Any) -> Any:
    """`_request`, a few times where Label Studio does not answer."""
    for pause in PAUSES:
        try:
            return _request(project, method, path, **what)
        except AnswerError as failure:
            if not failure.passes:
                raise
            log.warning("%s; again in %.0f s", failure, pause)
            time.sleep(pause)
    return _request(project, method, path, **what)


def _request(project: Project, method: str, path: str, **what: Any) -> Any:
    """An answer of the project's Label Studio through the SDK's client, which knows both kinds of token."""
    import httpx
    from label_studio_sdk import LabelStudio
    from label_studio_sdk.core.request_options import RequestOptions

    if not project.hostname or not project.token:
        raise InputError(f"project {project.id}", "an address and a token of its Label Studio", "none")
    try:
        sdk = LabelStudio(base_url=project.hostname, api_key=project.token, timeout=120)
        # The client would send again by itself what may have been taken already.
        options = RequestOptions(max_retries=0)
        client = sdk._client_wrapper.httpx_client
        answer = client.request(path.lstrip("/"), method=method, request_options=options, **what)
    except httpx.HTTPError as error:
        raise AnswerError(f"project {project.id}", "an answer of Label Studio", type(error).__name__) from None
    if not 200 <= answer.status_code < 300:
        raise AnswerError(f"project {project.id}", "an answer of Label Studio", answer.status_code)
    try:
        return answer.json()
    except ValueError:
        raise AnswerError(f"project {project.id}", "an answer of Label Studio", "one that is no JSON") from None
