"""Backbones as a running daemon tells of them: loaded and measured in its trainer, kept in its state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.daemon_process import DaemonProcess, running, wait_until
from tlserve.client import Client
from tlserve.core.errors import NotFound


def test_a_daemon_describes_and_measures_a_backbone_and_lists_its_speed_from_then_on(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address, timeout_seconds=120) as client:
        known = client.backbone("nano")
        assert (known.plugin, known.trainable, known.build_folder, known.speeds) == ("nano", True, "", ())
        assert known.info.name == "nano"
        assert known.info.taps[-1].name == "features"

        measured = client.backbone("nano", measure=True)
        assert Path(measured.build_folder) == daemon.state / "backbones" / known.build
        assert [speed.batch_size for speed in measured.speeds] == [1, 32]
        (line,) = (line for line in client.backbones() if line.name == "nano")
        assert (line.images_per_second, line.measured) == (measured.speeds[1].images_per_second, "backbone")
        assert (line.licence, line.n_parameters) == (known.info.licence, known.info.n_parameters)
        assert line.row_width == sum(tap.width for tap in known.info.taps)

        with pytest.raises(NotFound, match="did you mean nano"):
            client.backbone("nanoo")


def test_a_catalogue_that_cannot_be_kept_is_listed_all_the_same(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon("nano")
    (daemon.state / "backbones.json").mkdir(parents=True)  # as a full disk, it takes no file
    with running(daemon), Client(daemon.address) as client:
        assert "nano" in {line.name for line in client.backbones()}
        assert daemon.metric("tlserve_trainer_restarts_total") == 0
        wait_until(lambda: "backbones.json was not written" in daemon.log.read_text(), "it is told")
