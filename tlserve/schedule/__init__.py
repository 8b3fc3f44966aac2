"""When what runs: the trainer's keeper, and the scheduler that hands it one job at a time."""

from tlserve.schedule.keeper import TrainerKeeper
from tlserve.schedule.scheduler import PassRequest, Scheduler

__all__ = ["PassRequest", "Scheduler", "TrainerKeeper"]
