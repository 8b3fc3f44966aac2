from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from tests.flow.daemon_process import wait_until
from tlserve.runtime.gate import CaptureGate, capture_gate

PATIENCE = 20.0
A_MOMENT = 0.05


def test_many_share_it() -> None:
    gate, meeting = CaptureGate(), threading.Barrier(3)

    def share() -> None:
        with gate.shared():
            meeting.wait(PATIENCE)

    with ThreadPoolExecutor(3) as threads:
        for one in [threads.submit(share) for _ in range(3)]:
            one.result(PATIENCE)


def test_who_wants_to_be_alone_waits_for_those_inside_and_goes_before_those_outside() -> None:
    gate, order = CaptureGate(), list[str]()
    leave, wanting = threading.Event(), threading.Event()

    def first() -> None:
        with gate.shared():
            wanting.set()
            leave.wait(PATIENCE)
            order.append("run before")

    def capture() -> None:
        with gate.alone():
            order.append("capture begins")
            order.append("capture ends")

    def later() -> None:
        with gate.shared():
            order.append("run after")

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(first)]
        wanting.wait(PATIENCE)
        running.append(threads.submit(capture))
        wait_until(lambda: gate.n_wanting_alone == 1, "nobody wants to capture", PATIENCE)
        running.append(threads.submit(later))
        threading.Event().wait(A_MOMENT)
        assert order == []
        leave.set()
        for one in running:
            one.result(PATIENCE)
    assert order == ["run before", "capture begins", "capture ends", "run after"]


def test_one_captures_at_a_time_and_nobody_runs_meanwhile() -> None:
    gate, inside, seen = CaptureGate(), list[str](), list[tuple[str, ...]]()

    def alone() -> None:
        for _ in range(50):
            with gate.alone():
                inside.append("alone")
                seen.append(tuple(inside))
                inside.remove("alone")

    def shared() -> None:
        for _ in range(50):
            with gate.shared():
                inside.append("shared")
                seen.append(tuple(inside))
                inside.remove("shared")

    with ThreadPoolExecutor(4) as threads:
        for one in [threads.submit(work) for work in (alone, shared, alone, shared)]:
            one.result(PATIENCE)
    assert len(seen) == 200
    assert all(who == ("alone",) or "alone" not in who for who in seen)


def test_a_failure_inside_opens_it_again() -> None:
    gate = CaptureGate()
    for enter in (gate.alone, gate.shared, gate.alone):
        try:
            with enter():
                raise RuntimeError
        except RuntimeError:
            pass


def test_the_process_has_one() -> None:
    assert capture_gate() is capture_gate()
