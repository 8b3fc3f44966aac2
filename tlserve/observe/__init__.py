"""What an operator sees: logging and Prometheus metrics."""

from tlserve.observe.logs import set_up_logging
from tlserve.observe.metrics import Metrics, MetricsServer

__all__ = ["Metrics", "MetricsServer", "set_up_logging"]
