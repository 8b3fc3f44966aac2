"""Where everything lies under the state directory, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StateLayout:
    """Paths under one state directory; nothing is created here."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.sqlite3"

    @property
    def catalogue(self) -> Path:
        """What the plugins offer, as the trainer last found it."""
        return self.root / "backbones.json"

    @property
    def backbones(self) -> Path:
        return self.root / "backbones"

    def features(self, build: str) -> Path:
        return self.root / "features" / build

    @property
    def models(self) -> Path:
        return self.root / "models"

    def study(self, model: str) -> Path:
        """What came of the last search for a better version."""
        return self.models / model / "study.json"

    @property
    def tunings(self) -> Path:
        return self.root / "tuning"

    def tuning(self, model: str) -> Path:
        """Everything that a fine-tuning of the model needs and keeps; gone when its build is learnt on."""
        return self.tunings / model

    def tuning_order(self, model: str) -> Path:
        return self.tuning(model) / "order.json"

    def tuning_result(self, model: str) -> Path:
        return self.tuning(model) / "result.json"

    @property
    def triton(self) -> Path:
        return self.root / "triton"

    @property
    def exports(self) -> Path:
        """Graphs on their way to a client; emptied at start."""
        return self.root / "exports"
