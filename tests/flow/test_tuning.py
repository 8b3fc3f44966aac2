"""Fine-tuning beside a daemon: ordered by the study, killed, resumed, and a drop goes live meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client

SECONDS = 300.0
"""A fine-tuning takes half a minute of two idle cores."""
MODEL = """
strategy = "finetune"
unfreeze = 1
tune_epochs = 3
augment = "none"
mixup = false
head = "softmax"
"""


@pytest.mark.timeout(700)
def test_a_killed_fine_tuning_is_resumed_while_drops_go_live(tmp_path: Path) -> None:
    watch, state = tmp_path / "watch", tmp_path / "state"
    for seed, shape in enumerate(("disc", "bar", "frame")):
        draw_shapes(watch / "shapes" / shape, shape, 40, seed=seed)
    (watch / "shapes" / "model.toml").write_text(MODEL)
    daemon = DaemonProcess(watch, state, "nano", tmp_path / "log", study=True)
    order = state / "tuning" / "shapes" / "order.json"
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: "epoch 2" in client.model("shapes").message, "no fine-tuning began", SECONDS)
        os.kill(tuner_of(daemon), signal.SIGKILL)
        draw_shapes(watch / "shapes" / "disc", "disc", 3, seed=9)
        wait_until(lambda: client.versions("shapes")[-1].images == 123, "the drop did not go live")
        assert order.is_file(), "the drop waited for the fine-tuning"
        again = heard(client, "shapes")
        assert again.startswith(("fine-tuning: preparing", "fine-tuning: epoch 2", "fine-tuning: epoch 3"))
        # Shapes are so easy that it may end with "no epoch was better"; both are ends.
        wait_until(lambda: not order.exists(), "the fine-tuning did not end", SECONDS)
        wait_until(lambda: client.model("shapes").phase == "idle", "it does not come to rest", SECONDS)
        assert daemon.stop() == 0
    assert "ERROR" not in daemon.log.read_text()


def heard(client: Client, model: str) -> str:
    """What the fine-tuning tells next."""
    return next(event.message for event in client.watch(model) if event.kind == "tuning")


def tuner_of(daemon: DaemonProcess) -> int:
    assert daemon.process is not None
    children = psutil.Process(daemon.process.pid).children(recursive=True)
    return next(child.pid for child in children if "tuner" in child.cmdline())
