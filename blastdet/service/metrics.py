"""Figures for Prometheus: requests by route, and jobs by state."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one web process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "blastdet_requests_total", "Requests", ["method", "route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "blastdet_request_seconds", "Time of requests", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._detect = Histogram(
            "blastdet_model_seconds", "Time in the model for /detect", buckets=_SECONDS, registry=self._registry
        )
        self._uploaded = Counter("blastdet_uploaded_bytes_total", "Bytes of smears", registry=self._registry)
        self._jobs = Gauge("blastdet_jobs", "Jobs by state", ["state"], registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def detected(self, seconds: float) -> None:
        """Count an image of ``/detect``."""
        self._detect.observe(seconds)

    def uploaded(self, n_bytes: int) -> None:
        """Count an upload."""
        self._uploaded.inc(n_bytes)

    def text(self, jobs: Mapping[str, int]) -> bytes:
        """Everything, in the format of Prometheus."""
        for state in ("queued", "running", "done", "failed", "cancelled"):
            self._jobs.labels(state).set(jobs.get(state, 0))
        return generate_latest(self._registry)
