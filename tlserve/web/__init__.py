"""HTTP on port 8000: for now the health endpoints that load balancers and probes ask for."""

from tlserve.web.health import HealthServer

__all__ = ["HealthServer"]
