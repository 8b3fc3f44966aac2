"""When what runs: the trainer's keeper, and the scheduler that hands it one job at a time."""

from tlserve.schedule.keeper import LastEvent, TrainerKeeper
from tlserve.schedule.requests import PassRequest
from tlserve.schedule.scheduler import Scheduler

__all__ = ["LastEvent", "PassRequest", "Scheduler", "TrainerKeeper"]
