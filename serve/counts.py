"""What ``/metrics`` shows, in Prometheus's format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from janus_edge.serve.worker import Job

_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Counts:
    """The counters of a server."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._registry = CollectorRegistry()
        own = self._registry
        self._requests = Counter(
            "janus_edge_requests", "Requests by path and status.", ["path", "status"], registry=own
        )
        self._images = Counter("janus_edge_images", "Images that were sent.", registry=own)
        self._tokens = Counter("janus_edge_tokens", "Tokens that were sent.", registry=own)
        self._waiting = Gauge(
            "janus_edge_waiting", "Images and answers that wait.", ["model"], registry=own
        )
        self._running = Gauge(
            "janus_edge_running",
            "Images and answers in work.",
            ["model"],
            registry=own,
        )
        self._first = Histogram(
            "janus_edge_first_seconds",
            "Time to a request's first code, token or step, with waiting.",
            buckets=_SECONDS,
            registry=own,
        )

    def request(self, path: str, status: int) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(status)).inc()

    def images(self, count: int) -> None:
        """Count images that were sent."""
        self._images.inc(count)

    def tokens(self, count: int) -> None:
        """Count tokens that were sent."""
        self._tokens.inc(count)

    def ended(self, job: Job) -> None:
        """Note how long a request's first code took."""
        if job.first_s is not None:
            self._first.observe(job.first_s)

    def load(self, model: str, waiting: int, running: int) -> None:
        """Note what a model has to do now."""
        self._waiting.labels(model).set(waiting)
        self._running.labels(model).set(running)

    def text(self) -> bytes:
        """Return all of it."""
        return generate_latest(self._registry)
