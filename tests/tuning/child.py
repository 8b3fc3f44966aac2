"""A fine-tuning in a process of its own, to be killed: it says where it stands on its standard output.

With --hang-in N it waits for ever at the end of epoch N, before the checkpoint of that epoch is written.
"""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path

import torch

from tests.tuning.small import CPU, OPTIONS, SmallBackbone, lesson
from tlserve.core.tuning import TuneProgress, TuneStage
from tlserve.tuning import TunedBackbone, tune


def main(folder: Path, hang_in: int) -> None:
    torch.set_num_threads(1)

    def say(progress: TuneProgress) -> None:
        at_end = progress.done == progress.total
        if progress.stage is TuneStage.CACHING:
            print("caching", progress.done, flush=True)
        elif at_end:
            print("epoch", progress.epoch, flush=True)
        if at_end and progress.epoch == hang_in > 0:
            signal.pause()

    backbone = SmallBackbone()
    options = dataclasses.replace(OPTIONS, epochs=5, patience=5, scratch=folder.parent.name == "scratch")
    tuned = tune(backbone.torch_module(), lesson(), options, folder, device=CPU, on_progress=say)
    for note in tuned.notes:
        print("note", note)
    TunedBackbone(backbone.info, tuned).save(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[3]) if len(sys.argv) > 2 else 0)
