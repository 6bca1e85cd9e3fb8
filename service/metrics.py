"""What Prometheus can read of a running service; nothing in it is about an image or a patient."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ctai_sam2.types import ModelIdentity

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "ctai_requests", "Responses sent.", ("method", "route", "status"), registry=registry
        )
        self.latency = Histogram(
            "ctai_request_seconds",
            "From request to response.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages = Histogram(
            "ctai_stage_seconds",
            "Time in decode, embed, predict, encode.",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.predictions = Counter(
            "ctai_predictions", "Predictions made (cached=no) or reused.", ("cached",), registry=registry
        )
        self.image_hits = Counter(
            "ctai_image_store", "Images requested by digest.", ("result",), registry=registry
        )
        self.dropped = Counter(
            "ctai_dropped", "Requests whose client disconnected before the response.", registry=registry
        )
        self.decodes_stopped = Counter(
            "ctai_decodes_stopped", "Images and bodies whose reading took too much.", registry=registry
        )
        self.connections_closed = Counter(
            "ctai_connections_closed", "Connections closed because too many were open.", registry=registry
        )
        self.waiting = Gauge("ctai_queue_waiting", "Requests waiting for their turn.", registry=registry)
        self.running = Gauge("ctai_running", "Jobs worked on.", registry=registry)
        self.images = Gauge("ctai_images_kept", "Decoded images stored.", registry=registry)
        self.image_bytes = Gauge("ctai_images_kept_bytes", "Their size.", registry=registry)
        self.ready = Gauge("ctai_ready", "1 when the model is loaded and warm.", registry=registry)
        self.model = Gauge(
            "ctai_model_info",
            "The model that makes the predictions.",
            ("name", "sha256", "device", "dtype"),
            registry=registry,
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one stage of the work, also where it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - started)

    def name_model(self, identity: ModelIdentity) -> None:
        """Report which model makes the predictions."""
        self.model.clear()
        self.model.labels(identity.name, identity.weights_sha256, identity.device, identity.dtype).set(1)

    def count_predictions(self) -> tuple[int, int]:
        """Count the predictions made, and those reused."""
        counts = {
            cached: self.registry.get_sample_value("ctai_predictions_total", {"cached": cached}) or 0
            for cached in ("no", "yes")
        }
        return int(counts["no"]), int(counts["yes"])

    def expose(self) -> bytes:
        """Write all figures in Prometheus' text format."""
        return generate_latest(self.registry)
