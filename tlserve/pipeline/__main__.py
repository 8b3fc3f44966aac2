"""Starts the trainer process, or a tuner."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from tlserve.pipeline.channel import Channel
from tlserve.pipeline.options import GRAM_CACHE_MB, TrainerOptions
from tlserve.pipeline.trainer import Trainer
from tlserve.pipeline.tuner import Tuner

CHATTY = ("onnx_ir", "onnxscript")
"""Loggers of what plugins export graphs with: dozens of lines for each, of no use to who runs a daemon."""


def log_to_stderr() -> None:
    """What tlserve and its plugins log, a line each. The daemon owns the clock and the prefix."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tlserve.pipeline", description="tlserve's trainer; started by the daemon"
    )
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--plugin-folder", type=Path, action="append", default=[])
    parser.add_argument("--gram-cache-mb", type=int, default=GRAM_CACHE_MB)
    parser.add_argument("--niceness", type=int, default=0, help="added to the process's niceness")
    parser.add_argument("--role", choices=("trainer", "tuner"), default="trainer")
    given = parser.parse_args()

    log_to_stderr()
    os.nice(given.niceness)
    # Two torch threads that spin while they wait for each other are slower than one on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    channel = Channel.over_standard_streams()
    options = TrainerOptions(
        state=given.state,
        device=given.device,
        threads=given.threads,
        plugin_folders=tuple(given.plugin_folder),
        gram_cache_mb=given.gram_cache_mb,
    )
    channel.listen()
    if given.role == "tuner":
        Tuner(options, channel).run()
    else:
        Trainer(options, channel).run()


if __name__ == "__main__":
    main()
