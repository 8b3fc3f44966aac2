"""The composition root: builds, starts and stops the daemon, and runs single passes without one."""

from tlserve.app.daemon import Daemon, Started
from tlserve.app.run import (
    BackboneSurvey,
    compare_once,
    describe_backbone_once,
    serve,
    survey_backbones_once,
)
from tlserve.app.single_pass import TrainOutcome, train_once

__all__ = [
    "BackboneSurvey",
    "Daemon",
    "Started",
    "TrainOutcome",
    "compare_once",
    "describe_backbone_once",
    "serve",
    "survey_backbones_once",
    "train_once",
]
