"""The precision that a running daemon decides on: measured once, learnt on, served, and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tlserve.client import Client
from tlserve.runtime import this_processor

PASSED = "tlserve_backbone_images_total"


@pytest.fixture
def many(shapes: Path) -> Path:
    """150 pictures: more than 100 are for training."""
    for seed, shape in enumerate(("disc", "bar")):
        draw_shapes(shapes / shape, shape, 50, seed=seed + 10)
    return shapes


def wait_for_version(client: Client, number: int) -> None:
    wait_until(lambda: client.model("shapes").live == number, f"version {number} is live")
    wait_until(lambda: client.model("shapes").phase == "idle", "its pass ended")


def specs(state: Path) -> dict[str, dict[str, object]]:
    """The builds in a state directory, by precision."""
    found = [json.loads(file.read_text()) for file in state.glob("backbones/*/spec.json")]
    return {spec["precision"]: spec for spec in found}


def build_of(state: Path, version: int) -> str:
    manifest = json.loads((state / "models" / "shapes" / str(version) / "manifest.json").read_text())
    return str(manifest["build"])


@pytest.mark.skipif(not this_processor().int8, reason="int8 is tried on processors with VNNI or the like")
def test_auto_decides_before_the_first_version_and_never_again(
    many: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano")
    with running(daemon), Client(daemon.address) as client:
        wait_for_version(client, 1)
        trial = specs(daemon.state)["fp32"]["trial"]
        assert isinstance(trial, dict)
        assert (trial["tried"], trial["chosen"]) == ("int8", "int8"), trial
        assert trial["images_per_second_tried"] >= 1.3 * trial["images_per_second"]
        assert trial["accuracy_tried"] >= trial["accuracy"] - 0.003 - 1e-9
        assert specs(daemon.state)["int8"]["trial"] == trial
        assert build_of(daemon.state, 1) == specs(daemon.state)["int8"]["digest"]
        (answer,) = client.classify("shapes", [sorted((many / "disc").iterdir())[0]])
        assert answer.label == "disc"
        told = client.backbone("nano")
        assert (told.precision, told.trial and told.trial.reason) == ("int8", trial["reason"])
        assert trial["reason"] in daemon.log.read_text()

        before = daemon.metric(PASSED)
        draw_shapes(many / "bar", "bar", 2, seed=30)
        wait_until(lambda: len(client.versions("shapes")) == 2, "a version with the new images")
        assert daemon.metric(PASSED) - before == 2
        assert specs(daemon.state)["fp32"]["trial"] == trial


def test_a_state_of_fp32_stays_fp32_until_int8_is_asked_for(
    many: Path, make_daemon: Callable[..., DaemonProcess]
) -> None:
    daemon = make_daemon("nano", "--precision", "fp32")
    with running(daemon), Client(daemon.address) as client:
        wait_for_version(client, 1)
    assert list(specs(daemon.state)) == ["fp32"]

    daemon.extra = ()
    with running(daemon), Client(daemon.address) as client:
        wait_until(lambda: daemon.metric("tlserve_passes_total") >= 1, "the look after the restart")
        assert client.model("shapes").live == 1
        told = client.backbone("nano")
        assert told.trial is not None
        assert (told.precision, told.trial.tried) == ("fp32", "")

        (many / "model.toml").write_text('precision = "int8"\n')
        wait_until(lambda: len(client.versions("shapes")) == 2, "a version on the int8 build")
    assert build_of(daemon.state, 2) == specs(daemon.state)["int8"]["digest"]
