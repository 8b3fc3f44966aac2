"""Fine-tuning beside a daemon at work: ordered by the study, killed, resumed, learnt on, live."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.flow.daemon_process import DaemonProcess, running, wait_until
from tlserve.client import Client

SIZE = 112
STROKES = {"level": (1, 0), "upright": (0, 1), "slanting": (1, 1)}
MODEL = """
strategy = "finetune"
unfreeze = 5
tune_epochs = 6
views = 1
augment = "light"
head = "softmax"
"""


@pytest.mark.timeout(400)
def test_a_killed_fine_tuning_is_resumed_and_its_backbone_goes_live(tmp_path: Path) -> None:
    watch, state = tmp_path / "watch", tmp_path / "state"
    for seed, slope in enumerate(STROKES):
        draw_strokes(watch / "shapes" / slope, slope, 60, seed=seed)
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
        draw_strokes(watch / "shapes" / "level", "level", 3, seed=9)
        wait_until(lambda: client.versions("shapes")[-1].images == 183, "the drop did not go live")
        wait_until(lambda: client.model("shapes").phase == "idle", "it does not come to rest")
        if line.state == "live":
            assert tuned_from(state, client.versions("shapes")[-1].version)
        assert daemon.stop() == 0
    assert "ERROR" not in daemon.log.read_text()


def draw_strokes(folder: Path, slope: str, count: int, *, seed: int) -> None:
    """Pictures of noise with sixty tiny strokes: what no ImageNet backbone was made for."""
    folder.mkdir(parents=True, exist_ok=True)
    random, (dx, dy) = np.random.default_rng(seed), STROKES[slope]
    for index in range(count):
        noise = random.normal(128, 30, (SIZE, SIZE, 3))
        for x, y in random.integers(2, SIZE - 2, (60, 2)):
            for step in (-1, 0, 1):
                noise[y + step * dy, x + step * dx] += 40
        picture = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
        picture.save(folder / f"{seed}_{index:03}.png")


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
