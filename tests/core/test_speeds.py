"""Which of several speeds speaks for a backbone."""

from __future__ import annotations

from tlserve.core.backbones import Speed, SpeedOf, newest_speeds, typical_speed


def speed(of: SpeedOf, batch_size: int, at: float) -> Speed:
    return Speed(of, batch_size, 100.0, "cpu", "a processor", 2, at)


def test_the_backbone_alone_in_its_largest_batch_speaks_before_files_and_single_images() -> None:
    single, batch, files = speed("backbone", 1, 2.0), speed("backbone", 32, 1.0), speed("files", 0, 3.0)
    assert typical_speed([single, files, batch]) == batch
    assert typical_speed([files, single]) == single
    assert typical_speed([files]) == files
    assert typical_speed([]) is None


def test_of_equal_measurements_the_newest_stays() -> None:
    old, new, other = speed("files", 0, 1.0), speed("files", 0, 2.0), speed("backbone", 1, 1.5)
    assert newest_speeds([new, other, old]) == (other, new)
