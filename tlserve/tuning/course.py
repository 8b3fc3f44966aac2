"""Epoch after epoch: learn, validate, remember the best, write the checkpoint, say where it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tlserve.core.tuning import TuneOptions, TuneProgress, TuneStage
from tlserve.tuning.activations import TuningCancelled
from tlserve.tuning.checkpoint import Checkpoint, EpochResult, State, load, save
from tlserve.tuning.first_head import MOST_FOR_FIRST_HEAD, fit_first_head
from tlserve.tuning.learner import Learner
from tlserve.tuning.lesson import Batches, Lesson
from tlserve.tuning.pictures import Ints

_TELL_SECONDS = 1.0
OnProgress = Callable[[TuneProgress], None]


class Course:
    """One fine-tuning under way. key: of everything that it depends on."""

    def __init__(
        self,
        learner: Learner,
        batches: Batches,
        lesson: Lesson,
        options: TuneOptions,
        folder: Path,
        *,
        key: str,
    ) -> None:
        self._learner, self._batches, self._lesson = learner, batches, lesson
        self._options, self._folder, self._key = options, folder, key
        self._tell: OnProgress = lambda _: None
        self._cancelled: Callable[[], bool] = lambda: False
        self.history: list[EpochResult] = []
        self.best_epoch = 0
        self._best: State = {}

    def run(self, on_progress: OnProgress, cancelled: Callable[[], bool]) -> str:
        """The first head and all epochs, or those that are left; the learner then has the best weights.

        Returns a note on a checkpoint that was of no use, or "". Raises TuningCancelled, StoreUnavailable.
        """
        self._tell, self._cancelled = on_progress, cancelled
        note = self._resume()
        if not self.history:
            self._begin()
        while self._goes_on():
            self._epoch(len(self.history))
            save(self._checkpoint(), self._folder)
        self._learner.restore(self._best)
        self._learner.train(False)
        return note

    def _begin(self) -> None:
        """The head first, on the backbone as it is."""
        began = time.perf_counter()
        self._learner.train(False)
        if not self._options.scratch:
            draw = np.random.default_rng(self._options.seed)
            some = np.sort(draw.permutation(self._lesson.training)[:MOST_FOR_FIRST_HEAD])
            learnt, judged = (self._features(images) for images in (some, self._lesson.validation))
            fit_first_head(self._learner.head, learnt, judged, self._learner.class_weights)
        self._best = self._learner.learnt()
        self.history.append(self._validated(0, None, began))
        save(self._checkpoint(), self._folder)

    def _features(self, images: Ints) -> tuple[Tensor, Tensor]:
        features, targets, told = [], list[Tensor](), time.perf_counter()
        for activations, of_batch in self._batches.plain(images):
            if self._cancelled():
                raise TuningCancelled
            if (now := time.perf_counter()) - told >= _TELL_SECONDS:
                told, done = now, sum(map(len, targets))
                stage, epochs = TuneStage.TRAINING, self._options.epochs
                self._tell(TuneProgress(stage, done=done, total=len(images), epoch=0, of=epochs))
            features.append(self._learner.features_now(activations))
            targets.append(of_batch)
        return torch.cat(features), torch.cat(targets)

    def _goes_on(self) -> bool:
        ran = len(self.history) - 1
        return ran < self._options.epochs and ran - self.best_epoch < self._options.patience

    def _epoch(self, epoch: int) -> None:
        began = told = time.perf_counter()
        n_steps, total_loss = self._batches.n_steps, 0.0
        # Dropout, where random weights are trained, then draws the same after a kill.
        torch.manual_seed(100_003 * self._options.seed + epoch)
        self._learner.train(True)
        for step, (activations, targets) in enumerate(self._batches.of_epoch(epoch), start=1):
            if self._cancelled():
                raise TuningCancelled
            number = (epoch - 1) * n_steps + step - 1
            total_loss += self._learner.step(activations, targets, number)
            if (now := time.perf_counter()) - told >= _TELL_SECONDS:
                told = now
                self._say(epoch, step, total_loss / step, (now - began) / step)
        self._learner.train(False)
        result = self._validated(epoch, total_loss / n_steps, began)
        self.history.append(result)
        if _merit(result) > _merit(self.history[self.best_epoch]):
            self.best_epoch, self._best = epoch, self._learner.learnt()
        self._say(epoch, n_steps, total_loss / n_steps, result.seconds / n_steps)

    def _validated(self, epoch: int, loss: float | None, began: float) -> EpochResult:
        right, total, wrongness = 0, 0, 0.0
        for activations, targets in self._batches.plain(self._lesson.validation):
            scores = self._learner.scores_now(activations)
            right += int((scores.argmax(1) == targets).sum())
            wrongness += float(torch.nn.functional.cross_entropy(scores, targets, reduction="sum"))
            total += len(targets)
        return EpochResult(epoch, loss, wrongness / total, right / total, time.perf_counter() - began)

    def _say(self, epoch: int, step: int, loss: float, step_seconds: float) -> None:
        n_steps, epochs = self._batches.n_steps, self._options.epochs
        left = (epochs - epoch) * n_steps + n_steps - step
        self._tell(
            TuneProgress(
                stage=TuneStage.TRAINING,
                done=step,
                total=n_steps,
                epoch=epoch,
                of=epochs,
                loss=loss,
                validation_accuracy=self.history[-1].validation_accuracy,
                seconds_left=left * step_seconds,
            )
        )

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            key=self._key,
            history=tuple(self.history),
            learnt=self._learner.learnt(),
            best=self._best,
            best_epoch=self.best_epoch,
            optimiser=self._learner.optimiser_state(),
            scaler=self._learner.scaler_state(),
        )

    def _resume(self) -> str:
        found, note = load(self._folder, self._key)
        if found is None:
            return note
        self._learner.resume(found.learnt, found.optimiser, found.scaler)
        self.history, self.best_epoch, self._best = list(found.history), found.best_epoch, found.best
        return f"went on after epoch {len(self.history) - 1}, from a checkpoint"


def _merit(result: EpochResult) -> tuple[float, float]:
    return result.validation_accuracy, -result.validation_loss
