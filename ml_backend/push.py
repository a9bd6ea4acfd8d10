"""Predictions made after a request was answered, sent to Label Studio in batches."""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from ml_backend.backend import Backend, Project, parse_labels
from ml_backend.errors import InputError

log = logging.getLogger(__name__)

BATCH = 64


def push_predictions(
    backend: Backend,
    project: Project,
    label_config: str,
    tasks: list[dict],
    *,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Predicts on `tasks` and imports the predictions into their project; gives how many.

    Tasks that hold a prediction of the current version are left alone, so it may be run again after it was killed.
    `progress` is told of each batch's size. Raises InputError where Label Studio cannot be reached or refuses.
    """
    labels = parse_labels(label_config)
    done = _predicted(project, backend.model.detector().version)
    tasks = [task for task in tasks if task.get("id") not in done]
    sent = 0
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        rows = [
            {"task": task["id"], **answer}
            for task, answer in zip(part, backend.predict_now(project, labels, part), strict=True)
        ]
        _request(project, "POST", f"/api/projects/{project.id}/import/predictions", json=rows)
        sent += len(rows)
        if progress:
            progress(len(part))
    return sent


class PushThread:
    """A queue inside this process, for a backend that runs without Redis. What waits is lost when it ends.

    Label Studio asks again at its next retrieve, so nothing is lost for good.
    """

    def __init__(self, backend: Backend):
        self.backend = backend
        self._waiting: queue.Queue[tuple[Project, str, list[dict]]] = queue.Queue()
        self._known: set[tuple[int, Any]] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, project: Project, label_config: str, tasks: list[dict]) -> None:
        """Takes tasks in; those that wait already are not taken twice."""
        with self._lock:
            new = [task for task in tasks if (project.id, task.get("id")) not in self._known]
            self._known.update((project.id, task.get("id")) for task in new)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="push-predictions", daemon=True)
                self._thread.start()
        for start in range(0, len(new), BATCH):
            self._waiting.put((project, label_config, new[start : start + BATCH]))

    def depth(self) -> int:
        """Batches that wait."""
        return self._waiting.qsize()

    def join(self) -> None:
        """Returns once nothing waits or runs."""
        self._waiting.join()

    def _run(self) -> None:
        while True:
            project, label_config, tasks = self._waiting.get()
            try:
                push_predictions(self.backend, project, label_config, tasks)
            except Exception as error:  # the thread serves every project and must outlive each one's troubles
                log.warning("predictions of project %d could not be pushed: %s", project.id, error)
            finally:
                with self._lock:
                    self._known.difference_update((project.id, task.get("id")) for task in tasks)
                self._waiting.task_done()


def _predicted(project: Project, version: str) -> set[int]:
    """Ids of the project's tasks that hold a prediction of `version`."""
    found: set[int] = set()
    after = 0
    while True:
        items = [
            {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": after},
            {
                "filter": "filter:tasks:predictions_model_versions",
                "operator": "contains",
                "type": "List",
                "value": [version],
            },
        ]
        query = {"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]}
        params = {"project": project.id, "page_size": 1000, "include": "id", "query": json.dumps(query)}
        page = _request(project, "GET", "/api/tasks/", params=params)["tasks"]
        found.update(int(task["id"]) for task in page)
        if len(page) < 1000:
            return found
        after = page[-1]["id"]


def _request(project: Project, method: str, path: str, **what: Any) -> Any:
    """An answer of the project's Label Studio through the SDK's client, which knows both kinds of token."""
    import httpx
    from label_studio_sdk import LabelStudio

    if not project.hostname or not project.token:
        raise InputError(f"project {project.id}", "an address and a token of its Label Studio", "none")
    try:
        sdk = LabelStudio(base_url=project.hostname, api_key=project.token, timeout=120)
        answer = sdk._client_wrapper.httpx_client.request(path.lstrip("/"), method=method, **what)
    except httpx.HTTPError as error:
        raise InputError(f"project {project.id}", "an answer of Label Studio", type(error).__name__) from None
    if not 200 <= answer.status_code < 300:
        raise InputError(f"project {project.id}", "an answer of Label Studio", answer.status_code)
    return answer.json()
