"""A small real process whose passes over `large` take long.

It hears cancels as the trainer does, and remembers them as well as the images that it passed.
"""

from __future__ import annotations

import os
import time

from tlserve.core.lifecycle import Phase
from tlserve.core.messages import ImagesPassed, PassDone, PassJob, Progress, TrainerReady
from tlserve.pipeline.channel import Channel

N_IMAGES = 200
IMAGE_SECONDS = 0.005


def main() -> None:
    channel = Channel.over_standard_streams()
    channel.listen()
    channel.send(TrainerReady(os.getpid()))
    missing = N_IMAGES
    while True:
        job = channel.next_job()
        assert isinstance(job, PassJob)
        channel.send(Progress(job.job_id, job.model, Phase.SCANNING))
        passed = 0
        while job.model == "large" and passed < missing and not channel.cancelled(job.job_id):
            time.sleep(IMAGE_SECONDS)
            passed += 1
            channel.send(Progress(job.job_id, job.model, Phase.EXTRACTING, passed, missing))
        channel.send(ImagesPassed(job.job_id, job.model, "nano", passed))
        missing -= passed
        outcome = "cancelled" if channel.cancelled(job.job_id) else "published"
        channel.send(PassDone(job.job_id, job.model, outcome, "as it goes"))


if __name__ == "__main__":
    main()
