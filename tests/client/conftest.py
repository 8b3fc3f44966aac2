"""A server over the colour backend, and a sync client that runs beside its loop."""

from __future__ import annotations

from tests.rpc.conftest import Running, running

__all__ = ["Running", "running"]
