"""Policies side by side through Label Studio, on the detector and trees of a campaign that has run.

    python -m tests.benchmarks.policies CAMPAIGN TRUTH.json IMAGES --policies paper adaptive [--audit 300] [--json]

Each policy gets a copy of the campaign's first round as it was before the first question, a verification project of
its own in a Label Studio started for this, and simulated annotators who are right but for `--error`. Figures are
scored against the truth one to one, duplicates count as wrong.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import delete, update

from campaign.demo.looking import look_through
from campaign.demo.trial import DemoOptions, figures, simulated
from campaign.derived.delivery import promise_of
from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer
from campaign.pages.audits import begin_audit, finish_audit
from campaign.steps.export import export_campaign
from campaign.steps.propagate import finish_round
from campaign.steps.verify import turn
from campaign.store import Store
from campaign.store import models as m
from ml_backend.masks.coco import CocoDataset


def fork(source: Path, target: Path, policy: str, search: dict, url: str, token: str) -> Store:
    """A copy of a campaign with the masks and trees of its first round and none of its questions."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    for folder in (target / "rounds").iterdir():
        if folder.name != "001":
            shutil.rmtree(folder)
    content = json.loads((target / "campaign.json").read_text())
    content["settings"]["search"] |= {"policy": policy, **search}
    content["settings"]["label_studio"]["url"] = url
    content["settings"]["rounds"]["rounds"] = 1
    (target / "campaign.json").write_text(json.dumps(content))
    store = Store.open(target)
    with store.session() as session:
        for table in (m.Question, m.Answer, m.Page, m.Decision, m.Event, m.View):
            session.execute(delete(table))
        for table in (m.Shard, m.ClassTree):
            session.execute(delete(table).where(table.round > 1))
        session.execute(delete(m.Round).where(m.Round.number > 1))
        session.execute(update(m.ClassTree).values(searched=False))
        session.execute(update(m.Round).values(stage="verify", ended_at=None))
        session.execute(delete(m.Meta).where(m.Meta.name != "campaign"))
    store.datasets.path(1).unlink(missing_ok=True)
    store.save_secrets({"label_studio_token": token})
    from campaign.steps.detect import assess

    assess(store, 1)  # thresholds as the present code learns them
    thresholds = store.rounds.all()[0].metrics["thresholds"]
    with store.session() as session:
        for row in session.query(m.ClassTree):
            row.thresholds = thresholds[str(row.class_id)]
    store.rounds.update(1, stage="verify")
    return store


def measure(
    store: Store, server: LabelStudioServer, truth: CocoDataset, truth_path: Path, options: argparse.Namespace
) -> dict:
    """Runs one round to its end and audits it; returns its figures."""
    # The key names the pages; two copies must not share a project.
    client = Client(server.url, server.token)
    project = create_own_project(store, client)
    audit = options.audit
    crowd = DemoOptions(store.folder, users=3, error=options.error, eye_cut=options.eye_cut)
    started = time.monotonic()
    with simulated(store, server, truth_path, crowd):
        while not turn(store, client).done:
            time.sleep(0.2)
        finish_round(store, 1)
        result = figures(store, truth)  # before the audit, which takes out the wrong masks that it finds
        if options.exports is not None:
            options.exports.mkdir(parents=True, exist_ok=True)
            export_campaign(store, options.exports / f"{store.folder.name.replace(' ', '-')}.json")
        certificate: Any = 0
        if store.settings.search.policy == "target":
            result |= {"promise": promise_of(store)}
        elif audit:
            begin_audit(store, audit)
            while isinstance(certificate, int):
                turn(store, client)
                certificate = finish_audit(store)
                time.sleep(0.2)
    if options.look:
        result["recall"] = look_through(store, server, truth_path, images=options.look)
    result |= {"seconds": round(time.monotonic() - started), "project": project}
    result["gold"] = len(store.questions.gold())  # beside the questions
    result["clusters_accepted"] = sum(d.kind == "accept" for d in store.decisions.rows())
    if audit and store.settings.search.policy != "target":
        after = figures(store, truth)
        result |= {"certified": certificate.sentence(), "audited_masks": after["masks"]}
        result["audited_precision"] = after["precision"]
    return result


def create_own_project(store: Store, client: Client) -> int:
    """A fresh verification project for this copy."""
    from campaign.label_studio.verification import create_project

    project = create_project(client, f"{store.settings.search.policy} {store.folder.name}"[:50])
    store.values.set("verification_project", {"id": project})
    return project


def main() -> None:
    """Measures every policy and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--policies", nargs="+", default=["paper", "curtailed", "adaptive"])
    parser.add_argument("--budget", type=int)
    parser.add_argument("--k-a", type=float)
    parser.add_argument("--precision", type=float, nargs="+", default=[0.9], help="targets, of the policy target")
    parser.add_argument("--error", type=float, default=0.0)
    parser.add_argument("--eye-cut", type=float)
    parser.add_argument("--audit", type=int, default=300)
    parser.add_argument("--look", type=int, default=0, help="images that are looked through for what is missing")
    parser.add_argument("--exports", type=Path, help="folder for what each run exports, before any audit")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    truth = CocoDataset.load(args.truth, args.images)
    results = {}
    with tempfile.TemporaryDirectory() as folder, LabelStudioServer(Path(folder) / "label-studio") as server:
        runs = [
            (policy, target)
            for policy in args.policies
            for target in (args.precision if policy == "target" else [None])
        ]
        for policy, target in runs:
            search = {"budget_questions": args.budget} | ({"k_a": args.k_a} if args.k_a else {})
            search |= {} if target is None else {"precision": target}
            name = policy if target is None else f"{policy} {target:g}"
            store = fork(args.campaign, Path(folder) / name, policy, search, server.url, server.token)
            results[name] = measure(store, server, truth, args.truth, args)
            if not args.json:
                print(name, results[name], flush=True)
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
