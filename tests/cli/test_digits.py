"""The demo's digits: what is written, and what is kept back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlserve.cli.demo.digits import NAMES, SIDE_PIXELS, Digits, load_digits, write_class_folders


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits()


def test_a_fifth_of_every_class_is_kept_back_for_questions(digits: Digits) -> None:
    assert len(digits.lessons) + len(digits.questions) == 1797
    for name in NAMES:
        lessons, questions = len(digits.lessons_of([name])), len(digits.questions_of([name]))
        assert questions == pytest.approx((lessons + questions) / 5, abs=1)


def test_no_question_is_among_the_lessons(digits: Digits) -> None:
    assert not {digit.file_name for digit in digits.lessons} & {digit.file_name for digit in digits.questions}


def test_class_folders_hold_readable_pictures_of_dark_ink_on_white(digits: Digits, tmp_path: Path) -> None:
    write_class_folders(digits.lessons_of(["three"]), tmp_path)
    files = list((tmp_path / "three").iterdir())
    assert len(files) == len(digits.lessons_of(["three"]))
    with Image.open(files[0]) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (SIDE_PIXELS, SIDE_PIXELS)
    assert np.median(pixels) > 128 > pixels.min()
