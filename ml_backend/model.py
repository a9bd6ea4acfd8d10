"""The model class that label-studio-ml runs, under 1.0.9 (package index) as under 2.x (its repository)."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ml_backend.detector import Detector, load_detector_class
from ml_backend.errors import InputError
from ml_backend.server.backend import Backend, ModelSource, project_number
from ml_backend.server.image_files import image_cache
from ml_backend.server.push import PushThread

# 2.x opens a SQLite file in this folder as soon as it is imported, by default in the current one.
os.environ.setdefault("MODEL_DIR", str(Path(tempfile.gettempdir()) / f"label-studio-ml-{os.getuid()}"))
if TYPE_CHECKING:
    LabelStudioMLBase: Any = object
else:
    try:
        from label_studio_ml.model import LabelStudioMLBase
    except ImportError:  # our own server does not need the package

        class LabelStudioMLBase:
            """What our own server needs of the package's class, where that is not installed."""


class MaskModel(LabelStudioMLBase):
    """Predicts masks for one project's labeling config. Cheap to make: all instances share one `Backend`.

    `backend` is set by whoever serves it; `label-studio-ml start` finds it by itself, from the environment (see
    `default_backend`).
    """

    backend: ClassVar[Backend | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()
    TRAIN_EVENTS = ("START_TRAINING",)

    def __init__(
        self,
        project_id: str | None = None,
        label_config: str | None = None,
        train_output: dict | None = None,
        **options: Any,
    ):
        # The base classes parse the config, open databases and log it; both versions agree only on the names.
        self._values: dict[str, Any] = {}
        self.project_id = str(project_id or "")
        self._label_config = label_config or ""
        self.train_output = train_output or {}
        self.hostname, self.access_token = str(options.get("hostname") or ""), str(options.get("access_token") or "")
        if self.hostname or self.access_token:
            self.shared().set_up(self.project_id, self.hostname, self.access_token)

    @classmethod
    def shared(cls) -> Backend:
        """The backend that all instances share."""
        with cls._lock:
            if MaskModel.backend is None:
                MaskModel.backend = default_backend()
            return MaskModel.backend

    @property
    def number(self) -> int:
        """The project's id, 0 where label-studio-ml did not pass it."""
        return project_number(self.project_id)

    @property
    def label_config(self) -> str:
        """The project's labeling config."""
        return self._label_config

    @property
    def model_version(self) -> str:
        """The current model's version."""
        return self.shared().model.version

    def get(self, key: str) -> Any:
        """A value kept for the project; `model_version` is always the current model's (2.x asks for it in /setup)."""
        return self.model_version if key == "model_version" else self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        """Keeps a value as long as this instance lives."""
        self._values[key] = value

    def has(self, key: str) -> bool:
        """Whether there is a value of that name."""
        return key == "model_version" or key in self._values

    def predict(self, tasks: Sequence[dict], context: dict | None = None, **_: Any) -> list[dict | list]:
        """One Label Studio prediction per task, or an empty list for a task whose prediction is pushed later."""
        return self.shared().answer(self.project_id, self._label_config, tasks, context)

    def fit(self, *_: Any, **__: Any) -> dict:
        """Leaves training to the campaign's queue: see `create_app` of `ml_backend.server.app`."""
        return {"status": "queued" if self._queue_training() else "no queue for training"}

    def _queue_training(self) -> bool:
        hook = self.shared().train
        if hook is None:
            return False
        hook(self.number)
        return True


class CheckpointModel(ModelSource):
    """A detector's checkpoint as the model of a backend; loaded at the first prediction."""

    def __init__(self, detector: str, checkpoint: Path, **options: Any):
        if not checkpoint.exists():
            raise InputError("checkpoint", "a file or folder", "none there")
        self._name, self._checkpoint, self._options = detector, checkpoint, options
        self._loaded: Detector | None = None
        self._lock = threading.Lock()

    @property
    def version(self) -> str:
        """The checkpoint's version; loads it."""
        return self.detector().version

    def detector(self) -> Detector:
        """The checkpoint's detector, loaded when first asked for."""
        with self._lock:
            if self._loaded is None:
                self._loaded = load_detector_class(self._name).load(self._checkpoint, **self._options)
            return self._loaded


def default_backend() -> Backend:
    """The backend of `label-studio-ml start`: from CAMPAIGN_CHECKPOINT and CAMPAIGN_DETECTOR ("torchvision").

    Label Studio is reached through LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY. Raises InputError where no checkpoint
    is named.
    """
    checkpoint = os.environ.get("CAMPAIGN_CHECKPOINT", "")
    if not checkpoint:
        raise InputError("CAMPAIGN_CHECKPOINT", "the path of a detector's checkpoint", "nothing")
    model = CheckpointModel(os.environ.get("CAMPAIGN_DETECTOR", "torchvision"), Path(checkpoint))
    backend = Backend(model, image_cache())
    backend.enqueue = PushThread(backend)
    return backend
