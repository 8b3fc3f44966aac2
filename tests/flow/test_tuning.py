"""Fine-tuning beside a daemon at work: ordered by the study, killed, resumed, learnt on, live."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client

MODEL = """
strategy = "finetune"
unfreeze = 1
tune_epochs = 4
views = 1
augment = "light"
head = "softmax"
"""


@pytest.mark.timeout(400)
def test_a_killed_fine_tuning_is_resumed_and_its_backbone_goes_live(tmp_path: Path) -> None:
    watch, state = tmp_path / "watch", tmp_path / "state"
    for seed, shape in enumerate(("disc", "bar", "frame")):
        draw_shapes(watch / "shapes" / shape, shape, 40, seed=seed)
    (watch / "shapes" / "model.toml").write_text(MODEL)
    daemon = DaemonProcess(watch, state, "nano", tmp_path / "log", study=True)
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: "epoch 2" in client.model("shapes").message, "no fine-tuning began")
        os.kill(tuner_of(daemon), signal.SIGKILL)
        wait_until(lambda: is_tuned(client, state), "no fine-tuned version was published")
        line = next(line for line in client.versions("shapes") if tuned_from(state, line.version))
        report = client.report("shapes", str(line.version))
        # An epoch that was over before the kill is not run again.
        assert [one["epoch"] for one in report["tuning"]["epochs"]][:3] == [0, 1, 2]
        assert not (state / "tuning" / "shapes").exists()
        draw_shapes(watch / "shapes" / "disc", "disc", 3, seed=9)
        wait_until(lambda: client.versions("shapes")[-1].images == 123, "the drop did not go live")
        wait_until(lambda: client.model("shapes").phase == "idle", "it does not come to rest")
        if line.state == "live":
            assert tuned_from(state, client.versions("shapes")[-1].version)
        assert daemon.stop() == 0
    assert "ERROR" not in daemon.log.read_text()


def tuner_of(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    return next(child.pid for child in children if "tuner" in child.cmdline())


def tuned_from(state: Path, version: int) -> str | None:
    manifest = json.loads((state / "models" / "shapes" / str(version) / "manifest.json").read_bytes())
    found: str | None = manifest["tuned_from"]
    return found


def is_tuned(client: Client, state: Path) -> bool:
    return any(tuned_from(state, line.version) for line in client.versions("shapes"))
