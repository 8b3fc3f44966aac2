from __future__ import annotations

from pathlib import Path

import pytest

from tlserve.app.processes import trainer_command, tuner_command
from tlserve.settings import load_settings


@pytest.mark.parametrize(
    ("device", "trains_on"),
    [("auto", "auto"), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:2", "cuda:2"), ("cuda:1,cuda:0", "cuda:1")],
)
def test_of_several_gpus_training_uses_the_first(tmp_path: Path, device: str, trains_on: str) -> None:
    settings = load_settings({"device": device})
    for command in (trainer_command(settings, tmp_path), tuner_command(settings, tmp_path)):
        assert command[command.index("--device") + 1] == trains_on
