"""Prometheus metrics of the daemon: counters it keeps itself, and gauges read when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tlserve.core.errors import OperatorError

DROP_TO_LIVE_BUCKETS = (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 13, 20, 30, 60, 120, 300, 900, 3600)
STEP_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 20, 60, 300)


class Metrics:
    """Every metric that tlserve counts as things happen."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.backbone_images = Counter(
            "tlserve_backbone_images",
            "Images passed through a backbone to fill the bottleneck cache.",
            ["model", "backbone"],
            registry=self.registry,
        )
        self.folder_problems = Gauge(
            "tlserve_folder_problems",
            "Things in a model's folder that a person may want to mend: broken files, conflicts, odd names.",
            ["model"],
            registry=self.registry,
        )
        self.grpc_calls = Counter(
            "tlserve_grpc_calls",
            "Finished gRPC calls, refused ones included.",
            ["method", "status"],
            registry=self.registry,
        )
        self.passes = Counter(
            "tlserve_passes",
            "Passes over a model's folder, by how they ended.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.swaps = Counter("tlserve_swaps", "Versions that went live.", ["model"], registry=self.registry)
        self.trainer_restarts = Counter(
            "tlserve_trainer_restarts", "Times the trainer process was started again.", registry=self.registry
        )
        self.drop_to_live = Histogram(
            "tlserve_drop_to_live_seconds",
            "From the first noticed change to the version that answers.",
            ["model"],
            buckets=DROP_TO_LIVE_BUCKETS,
            registry=self.registry,
        )
        self.drop_to_live_steps = Histogram(
            "tlserve_drop_to_live_step_seconds",
            "What each step on the way from a change to its version took.",
            ["model", "step"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self.requests = Counter(
            "tlserve_requests", "Predict calls, by result.", ["model", "result"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "tlserve_request_seconds",
            "Time of a predict call in the daemon.",
            ["model"],
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.live_version = Gauge(
            "tlserve_live_version", "Number of the live version.", ["model"], registry=self.registry
        )

    def add_sampled(self, sample: Callable[[], Iterable[tuple[str, str, bool, float]]]) -> None:
        """Add metrics that are read at scrape time: (name, help, is a counter, value)."""
        self.registry.register(_Sampled(sample))


class _Sampled(Collector):
    def __init__(self, sample: Callable[[], Iterable[tuple[str, str, bool, float]]]) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Any]:
        for name, documentation, is_counter, value in self._sample():
            family = CounterMetricFamily if is_counter else GaugeMetricFamily
            yield family(name, documentation, value=value)


class MetricsServer:
    """Serves the metrics over HTTP on a thread of its own."""

    def __init__(self, metrics: Metrics, address: str) -> None:
        self._metrics = metrics
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    def start(self) -> str:
        """Listen; returns HOST:PORT as bound. Raises OperatorError when the address is taken."""
        try:
            self._server, self._thread = start_http_server(self._port, self._host, self._metrics.registry)
        except OSError as exc:
            raise OperatorError(
                f"metrics address {self._host}:{self._port} cannot be used: {exc.strerror}; "
                "choose another with --metrics HOST:PORT"
            ) from exc
        return f"{self._host}:{self._server.server_port}"

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
