"""The campaigns that are disturbed, made once and copied for every run; and what undisturbed ones come to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np

import ml_backend.detector
from campaign.derived.dataset import obtained
from campaign.label_studio.client import Client
from campaign.records.stage import Stage
from campaign.settings import CampaignSettings
from campaign.steps.export import export_campaign
from campaign.steps.rounds import due, progress_of, run_step, start_campaign
from campaign.store import Store
from campaign.store.restoration import copy_database
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from tests.campaign import builders, target_builders
from tests.campaign.steps.colours import draw
from tests.security.faults.label_studio import FIRST_TOKEN
from tests.security.faults.machines import Scene

IMAGES = 3  # of a campaign under the policy of a target
LOOP = {"labelled": 3, "pool": 4, "heldout": 2}  # images of a campaign that begins with its training


@dataclass
class Known:
    """What is known of a campaign: whether a mask is correct, and the dataset that right answers lead to.

    The dataset is None where it depends on the order of the answers.
    """

    truth: Callable[[int], bool]
    masks: list[int] | None


class Templates:
    """Campaigns by kind: `paper` and `target` are at verify, `loop` is yet to be trained."""

    def __init__(self, folder: Path):
        self.folder = folder
        _install_colours()
        good = builders.verify_store(folder / "paper")
        target_builders.target_store(folder / "target", images=IMAGES).engine.dispose()
        _loop_store(folder / "loop")
        for kind in ("paper", "target", "loop"):
            store = Store.open(folder / kind / "c")
            store.save_secrets({"label_studio_token": FIRST_TOKEN})
            store.engine.dispose()
        self.known = {
            "paper": Known(builders.is_good, [i for i in _pool_masks(good) if builders.is_good(i)]),
            "target": Known(target_builders.Truth(IMAGES), None),
            "loop": self._run_loop(),
        }
        good.engine.dispose()
        self._warm_up()

    def _run_loop(self) -> Known:
        """The loop in this process, answered rightly."""
        shutil.copytree(self.folder / "loop" / "c", self.folder / "loop-through")
        store = Store.open(self.folder / "loop-through")
        while (progress := progress_of(store)) is not None and progress.stage != Stage.VERIFY:
            for step in due(progress):
                run_step(store, step.name, step.round_number, *step.args)
        correct: dict[int, bool] = {}
        for split in ("pool", "heldout"):
            masks = store.masks.predictions(1, split, features=False)
            data = CocoDataset.load(self.folder / "loop" / f"{split}.json", self.folder / "loop" / "images")
            ids = {record.file_name: record.id for record in store.images.records(split)}
            own = {image.id: ids[image.file_name] for image in data.images}
            data.images = [replace(image, id=own[image.id]) for image in data.images]
            data.annotations = [replace(a, image_id=own[a.image_id]) for a in data.annotations]
            iou = true_iou(masks, data, one_to_one=False)
            correct |= dict(zip(masks.mask_id.tolist(), (iou >= store.settings.search.k_iou).tolist(), strict=True))
        assert 0 < np.mean(list(correct.values())) < 1
        while keys := builders.turn(store):
            for key in keys:
                builders.answer(store, key, says=correct.__getitem__)
        masks = sorted(obtained(store, 1).mask_id.tolist())
        assert masks and all(tree.searched for tree in store.trees.rows(1))
        store.engine.dispose()
        return Known(correct.__getitem__, masks)

    def _warm_up(self) -> None:
        """Imports all that turns import late, once for all processes that are forked from this one."""
        import campaign.web.serving  # noqa: F401

        copied = self.folder / "warm"
        shutil.copytree(self.folder / "target" / "c", copied)
        store = Store.open(copied)
        keys, _ = target_builders.turn(store)
        for key in keys:
            target_builders.answer(store, key, self.known["target"].truth)
        target_builders.turn(store)
        export_campaign(store, self.folder / "warm.json")
        store.engine.dispose()
        assert Client("http://127.0.0.1:9", FIRST_TOKEN).sdk

    def copy(self, kind: str, made: Scene) -> Store:
        """A campaign for a run, on its machines."""
        shutil.copytree(self.folder / kind / "c", made.folder)
        path = made.folder / "campaign.json"
        content = json.loads(path.read_text())
        settings = content["settings"]
        settings["label_studio"]["url"] = f"http://127.0.0.1:{made.port}"
        settings["page"]["public_url"] = f"http://127.0.0.1:{made.web_port}"
        settings["rounds"]["rounds"] = 1
        settings["jobs"] |= {"poll_seconds": 0.25, "retry_seconds": 0.1}
        if made.redis is not None:
            settings["jobs"]["redis_url"] = made.redis.url
        if made.postgres is not None:
            url = made.postgres.database(f"run_{made.port}")
            copy_database(Store.open(made.folder).engine, url)
            settings["jobs"]["database_url"] = url
            (made.folder / "campaign.db").unlink()
        path.write_text(json.dumps(content))
        return Store.open(made.folder)


def _install_colours() -> None:
    """The detector `colours` in this process and those forked from it, as if a package had brought it."""
    entry = EntryPoint("colours", "tests.campaign.steps.colours:Colours", ml_backend.detector.ENTRY_POINTS)
    ml_backend.detector.entry_points = lambda group: [entry]  # type: ignore[attr-defined]


def _loop_store(folder: Path) -> None:
    draw(folder, LOOP)
    settings = CampaignSettings(
        name="loop", detector={"name": "colours"}, search={"policy": "paper", "n_s": 4, "k_iou": 0.6},
        jobs={"shard_images": 2}, rounds={"rounds": 1},
    )  # fmt: skip
    data = {split: CocoDataset.load(folder / f"{split}.json", folder / "images") for split in LOOP}
    store = Store.create(folder / "c", settings, data)
    start_campaign(store)
    store.engine.dispose()


def _pool_masks(store: Store) -> list[int]:
    return store.masks.predictions(1, "pool", features=False).mask_id.tolist()
