"""Each image goes through a backbone once: looks, renames, moves, retrains and restarts cost no pass."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client

PASSED = "tlserve_backbone_images_total"


def live(client: Client, model: str = "shapes") -> int | None:
    return client.model(model).live


def test_a_second_look_a_rename_a_retrain_and_a_restart_pass_no_image(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: live(client) == 1, "the first version")
        assert daemon.metric(PASSED) == 50

        client.retrain("shapes")
        wait_until(lambda: len(client.versions("shapes")) == 2, "a retrain of unchanged images")
        assert daemon.metric(PASSED) == 50

        (shapes / "bar").rename(shapes / "stripe")
        wait_until(
            lambda: any("stripe" in line.classes for line in client.versions("shapes")), "the renamed class"
        )
        assert daemon.metric(PASSED) == 50

        assert daemon.stop() == 0
        daemon.start()
        with Client(daemon.address) as again:
            wait_until(lambda: daemon.metric("tlserve_passes_total") >= 1, "the look after the restart")
            assert live(again) is not None
        assert daemon.metric(PASSED) == 0


def test_replaced_content_is_passed_again_and_only_that(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: live(client) == 1, "the first version")
        draw_shapes(tmp_path / "new", "disc", 1, seed=99)
        victim = sorted((shapes / "disc").iterdir())[0]
        shutil.copy(next((tmp_path / "new").iterdir()), victim)
        wait_until(lambda: daemon.metric(PASSED) == 51, "the replaced image was passed")
        wait_until(lambda: len(client.versions("shapes")) == 2, "a version with the new content")
