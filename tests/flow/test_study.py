"""After a version is live a daemon looks for a better one, and a drop never waits for that."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client, VersionLine


def test_a_better_version_is_looked_for_in_the_background_and_a_drop_goes_before(tmp_path: Path) -> None:
    watch, state = tmp_path / "watch", tmp_path / "state"
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(watch / "shapes" / shape, shape, 60, seed=seed)
    daemon = DaemonProcess(watch, state, "nano", tmp_path / "log", study=True)

    def page_of(version: int) -> Path:
        return state / "models" / "shapes" / str(version) / "report.html"

    studied = state / "models" / "shapes" / "study.json"
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live is not None, "no version went live")
        wait_until(lambda: "better version" in client.model("shapes").message, "no study began")
        draw_shapes(watch / "shapes" / "disc", "disc", 3, seed=7)
        dropped = time.monotonic()
        wait_until(lambda: client.model("shapes").images == 123, "the drop was not noticed")
        wait_until(lambda: newest(client).images == 123, "the drop did not go live")
        assert not studied.exists(), f"the drop waited for the study ({time.monotonic() - dropped:.1f} s)"
        wait_until(studied.is_file, "the study did not end")
        assert json.loads(studied.read_text())["n_images"] == 123
        wait_until(
            lambda: page_of(newest(client).version).is_file(),
            "no page",
        )
        assert daemon.stop() == 0
    assert "ERROR" not in daemon.log.read_text()


def newest(client: Client) -> VersionLine:
    return client.versions("shapes")[-1]
