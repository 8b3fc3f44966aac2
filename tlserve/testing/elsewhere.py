"""The same plugin in another process: what it declares there, and which features it gives there.

That process is ``python -m tlserve.testing``, started by `look_elsewhere`.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tlserve.plugin_api import BackboneInfo, Plugin
from tlserve.testing.opening import offered_at, where_in_words, where_of
from tlserve.testing.trial import Outputs, Trial

PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Sight:
    """One backbone as a process saw it."""

    info: BackboneInfo
    features: Outputs
    """Of the reference pictures."""

    @classmethod
    def of(cls, trial: Trial) -> Sight:
        return cls(trial.backbone.info, dict(trial.outputs))


def look_elsewhere(where: str | Path, names: Sequence[str]) -> Mapping[str, Sight]:
    """What a fresh process finds, with this one's sys.path and another seed of `hash`.

    Raises RuntimeError with the last line that the process said, if it fails.
    """
    with tempfile.TemporaryDirectory(prefix="check-plugin-") as folder:
        out = Path(folder) / "sights.pickle"
        command = [sys.executable, "-m", "tlserve.testing", where_in_words(where), str(out), *names]
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": seed}
        said = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        if said.returncode or not out.exists():  # sys.exit() in a plugin ends it without an error
            last = said.stderr.strip().splitlines()[-1:] or [f"exit code {said.returncode}"]
            raise RuntimeError(f"the other process ended with {last[0]}")
        sights: Mapping[str, Sight] = pickle.loads(out.read_bytes())
        return sights


def report(where: str, out: str, *names: str) -> None:
    """The other process's part: write what it sees to the file `out`."""
    plugin = offered_at(where_of(where))
    if not isinstance(plugin, Plugin):
        raise TypeError(f"{type(plugin).__name__} is no plugin")
    sights = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="check-plugin-") as folder:
            sights[name] = Sight.of(Trial(plugin.load(name), Path(folder)))
    Path(out).write_bytes(pickle.dumps(sights))
