"""What Prometheus reads from a running daemon is what docs/metrics.md says."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flow.daemon_process import DaemonProcess, running, wait_until
from tlserve.client import Client
from tlserve.core.errors import InvalidRequest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"^\| `(tlserve_\w+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Metric -> (type, names of its labels), as the page's table has it."""
    return {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(PAGE.read_text())
    }


def served(daemon: DaemonProcess) -> dict[str, tuple[str, frozenset[str]]]:
    """The same as the daemon serves it; only metrics that have a series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{daemon.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created") or not family.samples:
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, frozenset(labels))
    return found


def test_the_page_lists_every_metric_with_its_type_and_labels(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    (shapes / "disc" / "broken.png").write_bytes(b"no picture")
    daemon = make_daemon("nano")
    # Away, and back once the daemon runs: only changes that it notices have a time to live.
    elsewhere = shapes.rename(tmp_path / "elsewhere")
    with running(daemon), Client(daemon.address) as client:
        elsewhere.rename(shapes)
        wait_until(lambda: daemon.metric("tlserve_live_version") == 1, "the first version")
        image = sorted((shapes / "bar").iterdir())[0]
        assert client.classify("shapes", [image])[0].version == 1
        with pytest.raises(InvalidRequest):
            client.classify("shapes", [b"no picture"])
        wait_until(lambda: daemon.metric("tlserve_passes_total") >= 1, "the pass was counted")
        assert served(daemon) == documented()
        assert daemon.metric("tlserve_backbone_images_total") == 50
        assert daemon.metric("tlserve_folder_problems") == 1
        assert daemon.metric("tlserve_requests_total") == 2
