from __future__ import annotations

import pytest

from tlserve.core.device_choice import DeviceChoice, read_device_choice


@pytest.mark.parametrize(
    ("text", "choice", "first"),
    [
        ("auto", DeviceChoice("auto"), "auto"),
        ("cpu", DeviceChoice("cpu"), "cpu"),
        (" cuda ", DeviceChoice("cuda"), "cuda"),
        ("cuda:0", DeviceChoice("cuda", (0,)), "cuda:0"),
        ("cuda:3, cuda:1", DeviceChoice("cuda", (3, 1)), "cuda:3"),
    ],
)
def test_what_is_asked_is_read(text: str, choice: DeviceChoice, first: str) -> None:
    assert read_device_choice(text) == choice
    assert read_device_choice(text).first == first


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu,cuda:0", "cuda:0,", "0"])
def test_what_cannot_be_read_is_told_with_what_could(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be auto, cpu, cuda, or GPUs such as cuda:0,cuda:1, not"):
        read_device_choice(text)


def test_a_gpu_named_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="names a GPU twice: 'cuda:1,cuda:1'"):
        read_device_choice("cuda:1,cuda:1")
