"""A small real process that speaks the trainer's language, for tests of whoever keeps it.

What a pass does is told by its model's name: `ok` publishes, `slow` waits until it is cancelled, `die`
kills the process, `noise` prints rubbish first.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from tlserve.core.lifecycle import Phase
from tlserve.core.messages import Cancel, PassDone, PassJob, Progress, TrainerReady, decode, encode


def send(message: object) -> None:
    sys.stdout.buffer.write(encode(message))  # type: ignore[arg-type]
    sys.stdout.buffer.flush()


def main() -> None:
    if "refuse" in sys.argv:
        print("no backbone, no training", file=sys.stderr)
        sys.exit(3)
    send(TrainerReady(os.getpid()))
    for line in sys.stdin.buffer:
        job = decode(line)
        if isinstance(job, Cancel):
            send(PassDone(job.job_id, "slow", "cancelled", "stopped on request"))
            continue
        assert isinstance(job, PassJob)
        send(Progress(job.job_id, job.model, Phase.SCANNING))
        if job.model == "die":
            print("about to die", file=sys.stderr, flush=True)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        if job.model == "noise":
            sys.stdout.buffer.write(b"rubbish\n")
        if job.model != "slow":
            send(PassDone(job.job_id, job.model, "published", "first version", version=1, promote=True))


if __name__ == "__main__":
    main()
