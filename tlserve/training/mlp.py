"""A head with one hidden layer: dropout, and as many epochs as the images that were left out favour.

Early stopping is a climb like that of a penalty: all folds learn side by side, epoch by epoch, until their
images have not been told better for a while; the last fit learns for as many epochs as were best. torch is
loaded by the first fit (`network`), not by this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlserve.core.plan import HeadKind
from tlserve.training.lesson import Exam, Lesson
from tlserve.training.method import LastFit, Older, Workplace
from tlserve.training.scaling import Scaling
from tlserve.training.search import Attempt, Trial, loss_after, room_for_scores

HIDDEN = 512
MOST_EPOCHS = 60
PATIENCE = 5
_USUAL_EPOCHS = 20


@dataclass(frozen=True, eq=False)
class MlpMethod:
    """One hidden layer of ReLU."""

    kind: HeadKind = HeadKind.MLP
    described: str = f"one hidden layer of {HIDDEN}, dropout, AdamW, epochs by cross-validation"
    fewest_images: int = 1_000
    """With fewer, a random layer is as good and takes a hundredth of the time."""
    is_quick_on_cpu: bool = False
    """15 seconds of one core for 2,350 images, where ridge is as good in half a second."""

    @property
    def most_trials(self) -> int:
        return MOST_EPOCHS

    def flops(self, exam: Exam, lesson: Lesson) -> float:
        per_row = 6.0 * HIDDEN * (lesson.rows.shape[1] + lesson.n_classes)
        passes = len(exam.lesson.rows) * max(1, exam.n_fits - 1) + len(lesson.rows)
        return float(_USUAL_EPOCHS * passes * per_row)

    def examine(self, exam: Exam, place: Workplace) -> Attempt:
        from tlserve.training.network import Networks

        tried: list[Trial] = []
        asked = [exam.asked_in(fold) for fold in range(exam.n_fits)]
        with Networks(exam.lesson, exam.row_weights(), HIDDEN, place) as networks:
            for epoch in range(1, MOST_EPOCHS + 1):
                networks.learn()
                logits = room_for_scores(len(exam.asked), exam.lesson.n_classes)
                for fold, at in enumerate(asked):
                    logits[at] = networks.scores(fold, exam.asked[at])
                tried.append(Trial.of(float(epoch), logits, exam.truth, link="softmax", usual=1.0))
                place.tell()
                best = min(tried, key=lambda trial: (loss_after(trial), trial.setting))
                if epoch - best.setting >= PATIENCE:
                    break
        return Attempt(self.kind, "softmax", "epochs", best, tuple(tried))

    def fit(
        self, lesson: Lesson, attempt: Attempt, scaling: Scaling, place: Workplace, older: Older | None
    ) -> LastFit:
        from tlserve.training.network import Networks

        with Networks(lesson, lesson.weights[None, :], HIDDEN, place) as networks:
            for _ in range(round(attempt.chosen.setting)):
                networks.learn()
            return LastFit(networks.layers(0, scaling))


MLP = MlpMethod()
