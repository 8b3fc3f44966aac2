"""The composition root: builds, starts and stops the daemon, and runs single passes without one."""

from tlserve.app.daemon import Daemon, Started
from tlserve.app.run import TrainOutcome, list_backbones_once, serve, train_once

__all__ = ["Daemon", "Started", "TrainOutcome", "list_backbones_once", "serve", "train_once"]
