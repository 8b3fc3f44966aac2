"""Backbones compared by a running daemon, one of them adopted, and a version's report as a page."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from tests.flow.daemon_process import DaemonProcess, draw_shapes, running, wait_until
from tests.testing.test_guide import plugin_of_the_guide
from tlserve.client import Client, ModelEvent
from tlserve.core.errors import NotFound, NotReady, TlserveError
from tlserve.rpc._gen import tlserve_v1_pb2 as v1

PASSED = "tlserve_backbone_images_total"
NOT_TAKEN_IN = "was not taken in"


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess], tmp_path: Path) -> DaemonProcess:
    """With a backbone `edges`, which is quick, beside the bundled one."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "edges.py").write_text(plugin_of_the_guide())
    made = make_daemon("edges")
    made.env = os.environ | {"TLSERVE_PLUGIN_FOLDERS": json.dumps([str(tmp_path / "plugins")])}
    return made


@pytest.fixture
def many(shapes: Path) -> Path:
    """Enough pictures that one sees a comparison at work."""
    draw_shapes(shapes / "frame", "frame", 400, seed=5)
    return shapes


def wait_for_the_first(client: Client) -> None:
    wait_until(lambda: client.model("shapes").live == 1, "the first version")
    wait_until(lambda: client.model("shapes").phase == "idle", "its pass ended")


class Events:
    """What a watcher of the model hears, from the start of the `with` block on."""

    def __init__(self, address: str) -> None:
        self._client = Client(address)
        self._seen: list[ModelEvent] = []

    def __enter__(self) -> Events:
        def watch() -> None:
            with contextlib.suppress(TlserveError):  # the end of the block closes the connection
                for event in self._client.watch("shapes"):
                    self._seen.append(event)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._thread.join()

    def of(self, kind: str) -> list[ModelEvent]:
        return [event for event in tuple(self._seen) if event.kind == kind]

    def at_work(self) -> bool:
        """Whether pictures of a comparison have gone through a backbone, and more will."""
        return any(
            0 < event.done < event.total and event.phase == "extracting" for event in self.of("comparison")
        )


def test_backbones_are_compared_beside_a_model_that_stays_as_it_is(
    shapes: Path, daemon: DaemonProcess
) -> None:
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client:
        wait_for_the_first(client)
        before = client.model("shapes")
        with Events(daemon.address) as events:
            compared = client.compare("shapes", ["edges", "nano", "nothing"])
        edges, nano, nothing = compared.found["rows"]
        assert (compared.found["n_images"], compared.found["n_classes"]) == (50, 2)
        assert (edges["live"], nano["live"]) == (True, False)
        for row in (edges, nano):
            assert 0.5 <= row["accuracy_low"] <= row["accuracy"] <= 1
            for cost in ("predict_ms", "train_seconds", "graph_mb"):
                assert row[cost] > 0, cost
        assert "no plugin offers 'nothing'" in nothing["error"]
        assert "tlserve adopt shapes nano" in compared.page
        named = [event.message for event in events.of("comparison") if not event.total]
        assert "comparing backbones: nano" in named
        assert not events.of("phase")
        assert client.model("shapes") == before
        assert len(client.versions("shapes")) == 1
        assert daemon.metric(PASSED) == 100

        # Once more, twice at a time: nothing is passed again.
        with ThreadPoolExecutor() as pool:
            both = list(pool.map(lambda _: client.compare("shapes", ["nano"]), range(2)))
        assert [one.found["rows"][0]["accuracy"] for one in both] == [nano["accuracy"]] * 2
        assert daemon.metric(PASSED) == 100
        assert NOT_TAKEN_IN not in daemon.log.read_text()


def test_a_drop_goes_live_while_a_comparison_waits_and_then_goes_on(
    many: Path, daemon: DaemonProcess
) -> None:
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client, ThreadPoolExecutor() as pool:
        wait_for_the_first(client)
        with Events(daemon.address) as events:
            comparing = pool.submit(client.compare, "shapes", ["nano"])
            wait_until(events.at_work, "the comparison is at work")
            draw_shapes(many / "disc", "disc", 3, seed=9)
            wait_until(lambda: client.model("shapes").live == 2, "the drop is live")
            assert not comparing.done()
            found = comparing.result(200).found
        assert found["n_images"] == 453
        assert found["rows"][0]["accuracy"] > 0.5
        assert found["rows"][0]["extract_seconds"] > 0
        assert client.model("shapes").phase == "idle"
        assert NOT_TAKEN_IN not in daemon.log.read_text()


def test_a_client_that_leaves_ends_its_comparison(many: Path, daemon: DaemonProcess) -> None:
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client:
        wait_for_the_first(client)
        before = daemon.metric(PASSED)
        with Events(daemon.address) as events, grpc.insecure_channel(daemon.address) as channel:
            call = channel.unary_unary(
                "/tlserve.v1.Tlserve/Compare",
                request_serializer=v1.CompareRequest.SerializeToString,
                response_deserializer=v1.CompareResponse.FromString,
            ).future(v1.CompareRequest(model="shapes", backbones=["nano"]))
            wait_until(events.at_work, "the comparison is at work")
            call.cancel()
        # Counted when the run through the backbone ends, however it ends.
        wait_until(lambda: daemon.metric(PASSED) > before, "the comparison ended")
        assert daemon.metric(PASSED) - before < 450


def test_what_cannot_be_compared_is_told(daemon: DaemonProcess) -> None:
    draw_shapes(daemon.watch / "lonely" / "disc", "disc", 3, seed=0)
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client:
        wait_until(lambda: client.model("lonely").phase == "waiting", "the folder was looked at")
        with pytest.raises(NotReady, match="2 class folders"):
            client.compare("lonely", ["nano"])
        with pytest.raises(NotFound, match="lonely"):
            client.compare("nobody", ["nano"])


def test_an_adopted_backbone_outranks_all_files_until_it_is_given_back(
    shapes: Path, daemon: DaemonProcess
) -> None:
    (shapes / "model.toml").write_text('backbone = "edges"\n')
    live_file = daemon.state / "models" / "shapes" / "LIVE"
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client:
        wait_for_the_first(client)
        kept = live_file.read_bytes()
        with pytest.raises(NotFound, match="did you mean nano"):
            client.set_backbone("shapes", "nanoo")
        with pytest.raises(NotFound, match="shapes"):
            client.set_backbone("nobody", "nano")
        assert live_file.read_bytes() == kept
        assert client.model("shapes").wanted_backbone == ""

        assert client.set_backbone("shapes", "nano").wanted_backbone == "nano"
        wait_until(lambda: client.versions("shapes")[-1].backbone == "nano", "a version on it")
        assert json.loads(live_file.read_text())["backbone"] == "nano"
        assert daemon.stop() == 0
        daemon.start()
        with Client(daemon.address, timeout_seconds=200) as again:
            wait_until(lambda: daemon.metric("tlserve_passes_total") >= 1, "the look after the restart")
            model = again.model("shapes")
            assert (model.wanted_backbone or model.backbone) == "nano"
            assert len(again.versions("shapes")) == 2
            model = again.set_backbone("shapes", "")
            assert (model.wanted_backbone or model.backbone) == "edges"
            assert json.loads(live_file.read_text())["backbone"] is None


def test_a_report_is_a_page_written_when_it_is_asked_for(shapes: Path, daemon: DaemonProcess) -> None:
    page = daemon.state / "models" / "shapes" / "1" / "report.html"
    with running(daemon), Client(daemon.address, timeout_seconds=200) as client:
        wait_for_the_first(client)
        found = client.report_page("shapes")
        assert found == page.read_text()
        assert "shapes" in found
        page.unlink()
        assert "shapes" in client.report_page("shapes", "1")
        assert page.is_file()
        with pytest.raises(NotFound, match="versions: 1"):
            client.report_page("shapes", "7")
