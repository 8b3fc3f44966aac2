"""What a person decides holds: during a pass, after a restart, and when the live version is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client
from tlserve.core.errors import InvalidRequest, NotReady, Unavailable


def second_version(client: Client) -> None:
    wait_until(lambda: client.model("shapes").live == 1, "the first version")
    client.retrain("shapes")
    wait_until(lambda: client.model("shapes").live == 2, "the second version")


def test_a_rollback_during_a_pass_is_not_undone_by_its_end(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    draw_shapes(tmp_path / "more", "frame", 600, seed=5)
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        second_version(client)
        (tmp_path / "more").rename(shapes / "frame")
        wait_until(lambda: client.model("shapes").phase == "extracting", "the pass is at work")
        assert client.rollback("shapes").version == 1
        wait_until(lambda: len(client.versions("shapes")) == 3, "the pass published")
        wait_until(lambda: client.model("shapes").phase == "idle", "the pass ended")
        states = {line.version: line.state for line in client.versions("shapes")}
        assert states == {1: "live", 2: "previous", 3: "candidate"}
        wait_until(
            lambda: "tlserve promote shapes 3" in client.model("shapes").message, "it says what it waits for"
        )

        # The person resumes: what waited is compared with what is live now, and goes live.
        client.set_promotion("shapes", "auto")
        wait_until(lambda: (client.model("shapes").live or 0) >= 3, "the candidate went live")


def test_one_rolls_back_from_a_version_that_is_damaged_on_disk(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    picture = next((shapes / "disc").iterdir())
    with running(daemon), Client(daemon.address) as client:
        second_version(client)
        assert daemon.stop() == 0
        (daemon.state / "models" / "shapes" / "2" / "head.safetensors").write_bytes(b"damaged")
        daemon.start()
        with Client(daemon.address) as again:
            with pytest.raises(Unavailable, match="version 2 cannot be loaded"):
                again.classify("shapes", [picture])
            assert again.rollback("shapes").version == 1
            assert again.classify("shapes", [picture])[0].version == 1


def test_versions_that_can_be_asked_for_are_ready_and_described_before_anybody_asked(
    shapes: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        second_version(client)
        assert daemon.stop() == 0
        daemon.start()
        with triton.InferenceServerClient(daemon.address) as outside:
            for version in ("1", "previous", "2", ""):
                assert outside.is_model_ready("shapes", version)
                assert outside.get_model_metadata("shapes", version).versions == ["1", "2"]
                assert outside.get_inference_statistics("shapes", version).model_stats
            assert not outside.is_model_ready("shapes", "3")


def test_promotion_can_be_set_before_the_first_version(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    (tmp_path / "watch" / "empty").mkdir(parents=True)
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        assert client.set_promotion("empty", "manual").promotion == "manual"
        for call in (client.report, client.rollback):
            with pytest.raises(NotReady):
                call("empty")


def test_names_that_the_watcher_passes_over_are_refused_or_mended(
    shapes: Path, make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    picture = next((shapes / "disc").iterdir())
    part = tmp_path / "picture.part"
    part.write_bytes(picture.read_bytes())
    with running(make_daemon("nano")) as daemon, Client(daemon.address) as client:
        for label in ("x.tmp", "_inbox", "lost+found", ".hidden"):
            with pytest.raises(InvalidRequest):
                client.add_images("shapes", label, [picture])
        assert client.add_images("shapes", "frame", [part])[0].path == "shapes/frame/picture.png"
