"""A fine-tuning learns what the head alone cannot, changes nothing below the cut, and survives a kill."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.tuning.small import CPU, OPTIONS, SmallBackbone, lesson
from tlserve.core.tuning import TuneOptions, TuneProgress, TuneStage
from tlserve.plugin_api import TrainableModule
from tlserve.tuning import Tuned, TuningCancelled, tune

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 100


def _tuned(folder: Path, options: TuneOptions = OPTIONS, module: TrainableModule | None = None) -> Tuned:
    return tune(module or SmallBackbone().torch_module(), lesson(), options, folder, device=CPU)


def _state(tuned: Tuned) -> dict[str, torch.Tensor]:
    return tuned.trainable.module.state_dict()


def _same(one: Tuned, other: Tuned, *, tolerance: float = 0.0) -> bool:
    pairs = zip(_state(one).values(), _state(other).values(), strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=tolerance) for a, b in pairs)


def test_it_learns_what_a_head_on_the_untouched_backbone_cannot(tmp_path: Path) -> None:
    tuned = _tuned(tmp_path, dataclasses.replace(OPTIONS, epochs=12, patience=12))
    assert tuned.history[0].validation_accuracy < 0.75
    assert tuned.history[tuned.best_epoch].validation_accuracy > 0.9
    assert tuned.gain > 0.2


def test_the_head_it_gives_belongs_to_the_weights_it_gives(tmp_path: Path) -> None:
    """Together they answer as the best epoch did."""
    tuned = _tuned(tmp_path, dataclasses.replace(OPTIONS, epochs=8))
    of = lesson()
    pixels = of.pictures.pixels(of.validation, np.zeros(len(of.validation), np.intp))
    pictures = torch.from_numpy((pixels.astype(np.float32) - 127.5) / 60).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = tuned.trainable.module(pictures)["features"].numpy()
    answers = (features @ tuned.head.weight + tuned.head.bias).argmax(axis=1)
    best = tuned.history[tuned.best_epoch]
    assert (answers == of.targets[of.validation]).mean() == pytest.approx(best.validation_accuracy)


def test_frozen_blocks_and_all_batch_norm_statistics_stay_as_they_are(tmp_path: Path) -> None:
    before = SmallBackbone().torch_module().module.state_dict()
    tuned = _tuned(tmp_path)
    assert tuned.best_epoch > 0
    after = _state(tuned)
    statistics = [name for name in before if "running" in name or "batches" in name]
    assert len(statistics) == 9
    for name in statistics + [name for name in before if name.startswith("stem")]:
        assert torch.equal(before[name], after[name]), name
    for name in ("middle.0.weight", "middle.1.weight", "last.0.0.weight", "last.0.1.bias"):
        assert not torch.equal(before[name], after[name]), name


def test_epochs_from_the_cache_come_to_what_epochs_without_it_do(tmp_path: Path) -> None:
    cached = _tuned(tmp_path / "a")
    without = _tuned(tmp_path / "b", dataclasses.replace(OPTIONS, activation_cache_gb=0))
    assert (cached.cache.share, without.cache.share) == (1.0, 0.0)
    assert [e.loss for e in cached.history[1:]] == pytest.approx([e.loss for e in without.history[1:]], 0.02)
    assert any("0%" in note for note in without.notes)


def test_the_same_arguments_give_the_same_weights(tmp_path: Path) -> None:
    one, other = _tuned(tmp_path / "a"), _tuned(tmp_path / "b")
    assert _same(one, other)
    third = _tuned(tmp_path / "c", dataclasses.replace(OPTIONS, seed=1))
    assert not _same(one, third)


def test_it_ends_early_and_gives_the_best_epochs_weights(tmp_path: Path) -> None:
    patient = dataclasses.replace(OPTIONS, epochs=40, patience=2)
    tuned = _tuned(tmp_path, patient)
    ran = len(tuned.history) - 1
    assert ran == tuned.best_epoch + 2 < 40
    best = max(tuned.history, key=lambda e: (e.validation_accuracy, -e.validation_loss))
    assert tuned.best_epoch == best.epoch


def test_all_blocks_can_learn(tmp_path: Path) -> None:
    before = SmallBackbone().torch_module().module.state_dict()
    tuned = _tuned(tmp_path, dataclasses.replace(OPTIONS, unfreeze="all"))
    assert (tuned.n_unfrozen, tuned.n_blocks) == (3, 3)
    assert not torch.equal(before["stem.0.weight"], _state(tuned)["stem.0.weight"])
    assert torch.equal(before["stem.1.running_mean"], _state(tuned)["stem.1.running_mean"])


def test_from_random_weights_everything_is_learnt_anew(tmp_path: Path) -> None:
    before = SmallBackbone().torch_module().module.state_dict()
    scratch = dataclasses.replace(OPTIONS, scratch=True, epochs=14, patience=14)
    tuned = _tuned(tmp_path / "a", scratch)
    after = _state(tuned)
    for name in ("stem.0.weight", "stem.1.running_mean", "last.0.1.running_var"):
        assert not torch.allclose(before[name], after[name], atol=1e-3), name
    assert tuned.history[0].validation_accuracy < 0.7
    assert tuned.history[tuned.best_epoch].validation_accuracy > 0.85
    assert _same(tuned, _tuned(tmp_path / "b", scratch))


def test_it_says_where_it_stands(tmp_path: Path) -> None:
    said: list[TuneProgress] = []
    tune(SmallBackbone().torch_module(), lesson(), OPTIONS, tmp_path, device=CPU, on_progress=said.append)
    caching = [p for p in said if p.stage is TuneStage.CACHING]
    assert [(p.done, p.total) for p in caching] == [(n, 300) for n in (64, 128, 192, 256, 300)]
    ends = [p for p in said if p.stage is TuneStage.TRAINING and p.done == p.total]
    assert [(p.epoch, p.of) for p in ends] == [(n, 4) for n in (1, 2, 3, 4)]
    assert all(p.loss is not None and p.validation_accuracy is not None for p in ends)
    left = [p.seconds_left for p in ends]
    assert all(seconds is not None for seconds in left)
    assert left[-1] == 0


def test_asked_to_stop_it_stops_and_goes_on_later(tmp_path: Path) -> None:
    module, asked = SmallBackbone().torch_module(), itertools.count()
    with pytest.raises(TuningCancelled):
        tune(module, lesson(), OPTIONS, tmp_path, device=CPU, cancelled=lambda: next(asked) > 5 + 3 * 10)
    again = _tuned(tmp_path)
    assert any("went on after epoch" in note for note in again.notes)


def test_a_finished_fine_tuning_is_not_done_again(tmp_path: Path) -> None:
    first = _tuned(tmp_path)
    again = _tuned(tmp_path)
    assert again.history == first.history
    assert _same(first, again)


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b"no checkpoint", lambda b: b""])
def test_a_damaged_checkpoint_starts_anew_and_says_so(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    whole = _tuned(tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    again = _tuned(tmp_path)
    assert any("damaged" in note and "anew" in note for note in again.notes)
    assert _same(whole, again)


def test_a_checkpoint_of_other_options_is_not_gone_on_from(tmp_path: Path) -> None:
    _tuned(tmp_path)
    other = dataclasses.replace(OPTIONS, head_learning_rate=0.005)
    again = _tuned(tmp_path, other)
    assert any("other images, weights or options" in note for note in again.notes)
    assert _same(again, _tuned(tmp_path / "b", other))


def _child(folder: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.tuning.child", str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _killed_in_epoch(folder: Path, epoch: int) -> None:
    with _child(folder, "--hang-in", str(epoch)) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(f"epoch {epoch}"):
                break
        child.send_signal(signal.SIGKILL)
        assert child.wait(WAIT_SECONDS) == -signal.SIGKILL


def _to_the_end(folder: Path) -> list[str]:
    with _child(folder) as child:
        output, _ = child.communicate(timeout=WAIT_SECONDS)
        assert child.returncode == 0
    return output.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tune", "scratch"])
def test_a_killed_fine_tuning_goes_on_at_its_epoch_and_ends_with_the_same_weights(
    tmp_path: Path, kind: str
) -> None:
    killed, unbroken = tmp_path / kind / "killed", tmp_path / kind / "unbroken"
    _killed_in_epoch(killed, 3)
    lines = _to_the_end(killed)
    assert next(line for line in lines if line.startswith("epoch")) == "epoch 3"
    assert "note went on after epoch 2, from a checkpoint" in lines
    assert not any(line.startswith("caching") for line in lines)
    assert _to_the_end(unbroken)[0].startswith("caching")
    one, other = (load_file(folder / "weights.safetensors") for folder in (killed, unbroken))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
