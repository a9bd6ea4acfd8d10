"""What the server answers to Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

LATENCY = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100)


class Metrics:
    """The server's counters, in a registry of their own so that several servers fit into one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "campaign_requests_total", "Requests by route and status.", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "campaign_request_seconds",
            "Seconds from request to answer, by route.",
            ["route"],
            buckets=LATENCY,
            registry=self.registry,
        )
        self.prompts = Histogram(
            "campaign_prompt_seconds",
            "Seconds in which clicks and boxes of annotators were answered.",
            buckets=LATENCY,
            registry=self.registry,
        )
        self.images = Counter("campaign_images_total", "Images predicted on.", registry=self.registry)
        self.image_seconds = Counter(
            "campaign_image_seconds_total", "Seconds spent predicting.", registry=self.registry
        )
        self.rate = Gauge(
            "campaign_images_per_second", "Images per second in the latest prediction.", registry=self.registry
        )
        self.bad_tasks = Counter(
            "campaign_bad_tasks_total",
            "Tasks answered with an empty result, or with none where the reason is fetch.",
            ["reason"],
            registry=self.registry,
        )
        self.queued_tasks = Counter(
            "campaign_queued_tasks_total", "Tasks left to the queue by a request.", registry=self.registry
        )
        self.pushed_tasks = Counter(
            "campaign_pushed_tasks_total", "Tasks whose prediction was pushed to Label Studio.", registry=self.registry
        )
        self.push_failures = Counter(
            "campaign_push_failures_total", "Tasks whose prediction could not be pushed.", registry=self.registry
        )
        self.events = Counter("campaign_events_total", "Webhook events, by action.", ["action"], registry=self.registry)
        self.queue_depth = Gauge("campaign_queue_depth", "Jobs that wait in the queues.", registry=self.registry)
        self.gpu_memory = Gauge(
            "campaign_gpu_memory_bytes", "Memory that the model's process holds on the GPU.", registry=self.registry
        )
        self.gpu_memory.set_function(gpu_memory)
        self.model = Info("campaign_model", "Version of the current model.", registry=self.registry)

    def measure_queue(self, depth: Callable[[], int]) -> None:
        """`depth` is asked at each scrape; where it fails the metric is NaN, which Prometheus shows as a gap."""

        def asked() -> float:
            try:
                return float(depth())
            except Exception:  # a metric must never break the scrape, whatever the queue's server does
                return float("nan")

        self.queue_depth.set_function(asked)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def gpu_memory() -> float:
    """Bytes held on the GPU by this process; 0 without one. Never loads torch itself."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.memory_reserved())
