"""The composition root: builds, starts and stops the daemon, and runs single passes without one."""

from tlserve.app.daemon import Daemon, Started
from tlserve.app.run import (
    BackboneSurvey,
    TrainOutcome,
    describe_backbone_once,
    serve,
    survey_backbones_once,
    train_once,
)

__all__ = [
    "BackboneSurvey",
    "Daemon",
    "Started",
    "TrainOutcome",
    "describe_backbone_once",
    "serve",
    "survey_backbones_once",
    "train_once",
]
