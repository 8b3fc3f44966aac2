"""What is on disk decides: a lost build is made again, added pictures stay, a lost folder is no deletion."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client
from tlserve.core.errors import InvalidRequest


def test_a_lost_build_is_made_again_and_the_live_version_served(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        assert daemon.stop() == 0
        shutil.rmtree(daemon.state / "backbones")
        daemon.start()
        with Client(daemon.address) as again:
            wait_until(lambda: again.model("shapes").ready, "the build was made again")
            assert again.classify("shapes", [next((shapes / "disc").iterdir())])[0].version == 1
        assert daemon.metric("tlserve_backbone_images_total") == 0


def test_a_model_whose_folder_and_state_are_deleted_is_served_no_more(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    (tmp_path / "fast.toml").write_text("reconcile_seconds = 1\n")
    daemon = make_daemon("nano", "--config", str(tmp_path / "fast.toml"))
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        wait_until(lambda: client.model("shapes").phase == "idle", "the pass ended")
        shutil.rmtree(daemon.state / "models" / "shapes")
        shutil.rmtree(shapes)
        wait_until(lambda: client.models() == [], "the model was forgotten")
        assert not client.ready("shapes")


def test_pictures_added_through_the_api_are_written_beside_the_others_and_trained(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    draw_shapes(tmp_path / "new", "frame", 12, seed=3)
    pictures = sorted((tmp_path / "new").iterdir())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        added = client.add_images("shapes", "frame", pictures)
        assert [image.path for image in added] == [f"shapes/frame/{picture.name}" for picture in pictures]
        assert client.add_images("shapes", "frame", pictures[:1])[0].already_there
        with pytest.raises(InvalidRequest, match=r"broken\.png"):
            client.add_images("shapes", "frame", [broken])
        with pytest.raises(InvalidRequest):
            client.add_images("shapes", "../frame", pictures[:1])
        wait_until(lambda: "frame" in client.versions("shapes")[-1].classes, "the new class was trained")
    assert sorted(p.read_bytes() for p in (shapes / "frame").iterdir()) == sorted(
        p.read_bytes() for p in pictures
    )


def test_a_vanished_model_folder_keeps_its_version_until_a_person_accepts(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: client.model("shapes").live == 1, "the first version")
        picture = next((shapes / "disc").iterdir()).read_bytes()
        draw_shapes(shapes / "frame", "frame", 25, seed=9)
        wait_until(lambda: "frame" in client.versions("shapes")[-1].classes, "a third class")
        shutil.rmtree(shapes / "disc")
        for file in sorted((shapes / "bar").iterdir())[:20]:
            file.unlink()
        wait_until(lambda: "disappeared" in client.model("shapes").message, "the loss was noticed")
        assert "disc" in client.versions("shapes")[-1].classes
        assert client.classify("shapes", [picture])[0].label == "disc"
        client.retrain("shapes", accept_deletions=True)
        wait_until(lambda: client.versions("shapes")[-1].classes == ("bar", "frame"), "the loss was accepted")
