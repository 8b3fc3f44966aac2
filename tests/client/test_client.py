"""Both clients against a real server: what goes in and what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rpc.colours import EMPTY, MODEL, NANO, picture
from tests.rpc.conftest import Running
from tlserve.client import AsyncClient, Client
from tlserve.core.backbones import Speed
from tlserve.core.errors import InvalidRequest, NotFound
from tlserve.core.precision import PrecisionTrial
from tlserve.plugin_api import Tap
from tlserve.rpc.backend import BackboneLine, ModelEvent

Ask = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sync", "async"])
async def ask(running: Running, request: pytest.FixtureRequest) -> AsyncIterator[Ask]:
    """`await ask("models")`: one method of either client; streams come back as lists."""
    if request.param == "sync":
        with Client(running.address) as client:

            async def ask_sync(method: str, *arguments: Any, **named: Any) -> Any:
                return await asyncio.to_thread(complete, getattr(client, method), *arguments, **named)

            yield ask_sync
    else:
        async with AsyncClient(running.address) as other:

            async def ask_async(method: str, *arguments: Any, **named: Any) -> Any:
                answer = getattr(other, method)(*arguments, **named)
                return [item async for item in answer] if hasattr(answer, "__aiter__") else await answer

            yield ask_async


def complete(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    answer = method(*arguments, **named)
    return list(answer) if isinstance(answer, Iterator) else answer


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


async def test_bytes_and_files_are_classified(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "sea.png"
    file.write_bytes(picture("blue"))
    answers = await ask("classify", MODEL, [picture("red"), file, str(file)])
    assert [answer.label for answer in answers] == ["red", "blue", "blue"]
    first = answers[0]
    assert (first.model, first.version, first.error) == (MODEL, 2, None)
    assert first.top[0][0] == "red"
    assert len(first.top) == 3
    assert first.probability == first.top[0][1] > first.top[1][1]
    assert first.novelty == pytest.approx(0)
    assert not first.unknown


async def test_the_version_and_the_number_of_labels_can_be_chosen(ask: Ask) -> None:
    (answer,) = await ask("classify", MODEL, [picture("red")], version="1", top_k=1)
    assert (answer.version, len(answer.top)) == (1, 1)


async def test_a_stream_answers_every_image_in_order_and_survives_a_bad_one(ask: Ask) -> None:
    images = [picture("red"), b"no image", *[picture(colour) for colour in ["blue", "lime"] * 40]]
    answers = await ask("classify_stream", MODEL, iter(images))
    assert [answer.label for answer in answers] == ["red", "", *["blue", "green"] * 40]
    assert answers[0].error is None
    assert "not an image" in answers[1].error


async def test_a_stream_is_slowed_down_by_a_full_queue_and_not_refused(running: Running, ask: Ask) -> None:
    running.backend.queue_rows = 1
    answers = await ask("classify_stream", MODEL, [picture("red")] * 50)
    assert [answer.label for answer in answers] == ["red"] * 50


async def test_models_are_told_with_everything_the_server_knows(running: Running, ask: Ask) -> None:
    ready, waiting = await ask("models")
    assert ready == running.backend.get_model(MODEL)
    assert (waiting.live, waiting.accuracy, waiting.phase) == (None, None, "waiting")
    assert waiting.problems == (("bad_image", "a?.jpg", "truncated"),)
    assert await ask("model", MODEL) == ready


async def test_versions_are_told_with_everything_the_server_knows(running: Running, ask: Ask) -> None:
    assert await ask("versions", MODEL) == await running.backend.list_versions(MODEL)


async def test_a_report_is_a_dict(ask: Ask) -> None:
    expected = {"version": 1, "classes": [{"label": "red", "recall": 1.0}]}
    assert await ask("report", MODEL, "previous") == expected


async def test_decisions_reach_the_server(running: Running, ask: Ask) -> None:
    backend = running.backend
    assert (await ask("promote", MODEL, "1")).state == "live"
    assert backend.live == 1
    assert (await ask("rollback", MODEL)).version == 2
    assert backend.promotion == "manual"
    assert (await ask("pin", MODEL, "1")).pinned
    assert not (await ask("pin", MODEL, "1", pinned=False)).pinned
    assert (await ask("set_promotion", MODEL, "frozen")).promotion == "frozen"
    assert (await ask("set_promotion", MODEL, "")).promotion == "auto"
    assert await ask("retrain", MODEL) == "job-1"
    assert await ask("retrain", MODEL, accept_deletions=True) == "job-2"
    assert backend.retrained == [(MODEL, False), (MODEL, True)]


async def test_backbones_are_listed_with_their_errors(ask: Ask) -> None:
    fine, broken = await ask("backbones")
    assert (fine.name, fine.error) == ("nano", None)
    assert broken.error == "no weights"


async def test_what_utf_8_cannot_say_spoils_no_listing(running: Running, ask: Ask) -> None:
    odd = "a\udcff.py"
    running.backend.backbones = [BackboneLine(odd, odd, odd, odd, odd)]
    assert await ask("backbones") == [BackboneLine("a?.py", "a?.py", "a?.py", "a?.py", "a?.py")]
    info = replace(
        NANO.info, name=odd, licence=odd, weights_origin=odd, build_version=odd, taps=(Tap(odd, 8),)
    )
    running.backend.description = replace(NANO, plugin=odd, source=odd, info=info, build_folder=odd)
    assert "\udcff" not in repr(await ask("backbone", "nano"))


async def test_what_is_known_of_a_backbone_comes_along_and_blanks_stay_blank(ask: Ask) -> None:
    fine, broken = await ask("backbones")
    assert (fine.licence, fine.n_parameters) == ("MIT", 1_034_528)
    assert (fine.height, fine.width, fine.row_width) == (32, 48, 24)
    assert (fine.images_per_second, fine.measured) == (210.4, "files")
    assert (broken.licence, broken.n_parameters, broken.row_width) == (None, None, None)
    assert (broken.images_per_second, broken.measured) == (None, "")


async def test_one_backbone_is_described_just_as_the_server_knows_it(ask: Ask) -> None:
    assert await ask("backbone", "nano") == NANO
    (speed,) = (await ask("backbone", "nano", measure=True)).speeds
    assert speed == Speed("backbone", 32, 99.5, "cpu", "a processor", 2, 1.5)
    with pytest.raises(NotFound, match="did you mean nano"):
        await ask("backbone", "nanoo")
    with pytest.raises(InvalidRequest, match="names no backbone"):
        await ask("backbone", "")


async def test_what_was_decided_on_precision_comes_along(running: Running, ask: Ask) -> None:
    untried = PrecisionTrial("fp32", "", "no VNNI", hardware="a\udcff", decided_at=1.5)
    tried = PrecisionTrial("int8", "int8", "taken", 1000, 0.885, 0.884, 100.0, 190.0, "a processor", 1.5)
    for trial, told in ((tried, tried), (untried, replace(untried, hardware="a?"))):
        running.backend.description = replace(NANO, precision=trial.chosen, trial=trial)
        found = await ask("backbone", "nano")
        assert (found.precision, found.trial) == (trial.chosen, told)


async def test_added_files_land_in_the_folder_of_their_class(
    running: Running, ask: Ask, tmp_path: Path
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture("red"))
    (added,) = await ask("add_images", MODEL, "red wine", [file])
    assert added.path == f"{MODEL}/red wine/a.png"
    assert (running.backend.watch_root / added.path).read_bytes() == file.read_bytes()
    (again,) = await ask("add_images", MODEL, "red wine", [str(file)])
    assert again.already_there


async def test_more_files_than_one_message_holds_are_added_in_parts(ask: Ask, tmp_path: Path) -> None:
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for file in files:
        file.write_bytes(file.name.encode() * 50_000)
    added = await ask("add_images", MODEL, "red", files)
    assert [image.path for image in added] == [f"{MODEL}/red/{file.name}" for file in files]


async def test_an_export_is_a_whole_file_of_many_pieces(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    assert await ask("export", MODEL, "2", file) == 2_500_000
    assert file.read_bytes() == np.random.default_rng(2).bytes(2_500_000)
    assert names_in(tmp_path) == ["model.onnx"]


async def test_readiness(running: Running, ask: Ask) -> None:
    assert await ask("ready")
    assert await ask("ready", MODEL)
    assert not await ask("ready", EMPTY)
    assert not await ask("ready", "nobody")
    await ask("wait_ready", 5)
    await ask("wait_ready", 5, model=MODEL)
    running.server.begin_drain()
    assert not await ask("ready")


async def test_events_arrive_as_they_happen(running: Running) -> None:
    events = [
        ModelEvent(MODEL, 12.5, "progress", "extracting", "extracting", None, 3, 10, 40.0, 0.2),
        ModelEvent(EMPTY, 13.0, "phase", "waits"),
        ModelEvent(MODEL, 14.0, "swap", "version 3 is live", version=3),
    ]
    async with AsyncClient(running.address) as client:
        of_all, of_one = aiter(client.watch()), aiter(client.watch(MODEL))
        first, first_of_one = asyncio.create_task(anext(of_all)), asyncio.create_task(anext(of_one))
        await running.backend.until(lambda backend: len(backend.watchers) == 2)
        for event in events:
            running.backend.tell(event)
        assert [await first, await anext(of_all), await anext(of_all)] == events
        assert [await first_of_one, await anext(of_one)] == [events[0], events[2]]
    await running.backend.until(lambda backend: not backend.watchers)


async def test_a_sync_watch_ends_with_the_server(running: Running) -> None:
    def watch() -> list[ModelEvent]:
        with Client(running.address) as client:
            return list(client.watch(MODEL))

    watching = asyncio.create_task(asyncio.to_thread(watch))
    await running.backend.until(lambda backend: len(backend.watchers) == 1)
    event = ModelEvent(MODEL, 1.0, "phase", "trains", "training")
    running.backend.tell(event)
    await running.server.stop(grace_seconds=30)
    assert await watching == [event]


async def test_a_report_is_a_page_too(ask: Ask) -> None:
    assert await ask("report_page", MODEL) == "<!doctype html><title>colours 2 é</title>"
    assert await ask("report_page", MODEL, "previous") == "<!doctype html><title>colours 1 é</title>"
    with pytest.raises(NotFound):
        await ask("report_page", MODEL, "7")


async def test_a_backbone_is_adopted_and_given_back(ask: Ask) -> None:
    assert (await ask("model", MODEL)).wanted_backbone == ""
    assert (await ask("set_backbone", MODEL, "nano")).wanted_backbone == "nano"
    assert (await ask("model", MODEL)).wanted_backbone == "nano"
    with pytest.raises(NotFound, match="did you mean nano"):
        await ask("set_backbone", MODEL, "nanoo")
    assert (await ask("model", MODEL)).wanted_backbone == "nano"
    assert (await ask("set_backbone", MODEL, "")).wanted_backbone == ""


async def test_backbones_are_compared_each_once(running: Running, ask: Ask) -> None:
    compared = await ask("compare", MODEL, ["nano", "broken", "nano"])
    assert [row["backbone"] for row in compared.found["rows"]] == ["nano", "broken"]
    assert compared.found["n_images"] == 30
    assert compared.page.endswith("colours é</title>")
    assert running.backend.compared == [(MODEL, ["nano", "broken"])]


@pytest.mark.parametrize("backbones", [[], ["nano", ""]])
async def test_a_comparison_of_nothing_is_a_wrong_request(ask: Ask, backbones: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="names of backbones"):
        await ask("compare", MODEL, backbones)


async def test_a_comparison_of_an_unknown_model_is_not_found(ask: Ask) -> None:
    with pytest.raises(NotFound, match="colours"):
        await ask("compare", "colors", ["nano"])


async def test_a_client_that_leaves_takes_its_comparison_along(running: Running) -> None:
    running.backend.gate.clear()
    async with AsyncClient(running.address, timeout_seconds=None) as client:
        asking = asyncio.create_task(client.compare(MODEL, ["nano"]))
        await running.backend.until(lambda backend: backend.working == 1)
        asking.cancel()
        await running.backend.until(lambda backend: backend.cancelled == 1)
