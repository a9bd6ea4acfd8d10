"""Writes `grafana.json`, the dashboard of a campaign: `python docker/dashboard.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RATE = "[$__rate_interval]"
# (title, unit, [(expression, legend)]) of each panel, three in a row.
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Stage of the running round", "none", (("campaign_stage == 1", "{{stage}}"), ("campaign_round", "round"))),
    ("Questions and answers", "none", (("campaign_questions_total", "asked"), ("campaign_answers_total", "answered"))),
    ("Answers an hour", "none", (("3600 * rate(campaign_answers_total[30m])", "answers"),)),
    ("Jobs that wait", "none", (("campaign_jobs_waiting", "{{queue}}"), ("campaign_queue_depth", "all"))),
    ("Jobs that run, and that failed", "none", (
        ("campaign_jobs_running", "{{queue}} runs"), ("campaign_jobs_failed", "{{queue}} failed"),
    )),
    ("Workers", "none", (("campaign_workers", "{{queue}} {{state}}"),)),
    ("Oldest heartbeat of a worker", "s", (("campaign_worker_heartbeat_seconds", "seconds"),)),
    ("Steps an hour", "none", ((f"3600 * rate(campaign_steps_total{RATE})", "{{step}} {{outcome}}"),)),
    ("Workers at work, by step", "none", ((f"rate(campaign_step_seconds_total{RATE})", "{{step}}"),)),
    ("Trouble, and Redis away", "none", (("campaign_trouble", "trouble"), ("1 - campaign_redis_up", "Redis away"))),
    ("Requests by status", "reqps", ((f"sum by (status) (rate(campaign_requests_total{RATE}))", "{{status}}"),)),
    ("Seconds of 95 % of requests", "s", (
        (f"histogram_quantile(0.95, sum by (le, route) (rate(campaign_request_seconds_bucket{RATE})))", "{{route}}"),
    )),
    ("Seconds of 95 % of answers to clicks", "s", (
        (f"histogram_quantile(0.95, sum by (le) (rate(campaign_prompt_seconds_bucket{RATE})))", "95 %"),
    )),
    ("Events of webhooks", "none", ((f"rate(campaign_events_total{RATE})", "{{action}}"),)),
    ("Images predicted on a second", "none", (
        (f"rate(campaign_images_total{RATE})", "images"), ("campaign_images_per_second", "in the latest prediction"),
    )),
    ("Seconds an image", "s", (
        (f"rate(campaign_image_seconds_total{RATE}) / rate(campaign_images_total{RATE})", "seconds"),
    )),
    ("Predictions pushed", "none", (
        (f"rate(campaign_queued_tasks_total{RATE})", "queued"), (f"rate(campaign_pushed_tasks_total{RATE})", "pushed"),
        (f"rate(campaign_push_failures_total{RATE})", "refused"),
    )),
    ("Tasks without a prediction", "none", ((f"rate(campaign_bad_tasks_total{RATE})", "{{reason}}"),)),
    ("GPU memory of the server", "bytes", (
        ("campaign_gpu_memory_bytes", "reserved"), ("campaign_model_info", "{{version}}"),
    )),
)  # fmt: skip
SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "Campaign",
        "uid": "cluster-verification",
        "schemaVersion": 39,
        "time": {"from": "now-24h", "to": "now"},
        "refresh": "1m",
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, title: str, unit: str, queries: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for n, (expression, legend) in enumerate(queries)
        ],
    }


if __name__ == "__main__":
    Path(__file__).with_name("grafana.json").write_text(json.dumps(dashboard(), indent=1) + "\n")
