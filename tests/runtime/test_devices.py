from __future__ import annotations

import pytest

from tlserve.core.errors import SettingsError
from tlserve.runtime import available_providers, choose_device, usable_cores


def test_the_cpu_is_there_when_asked_for() -> None:
    device = choose_device("cpu")
    assert (device.name, device.is_cuda) == ("cpu", False)
    assert [name for name, _ in device.provider_list()] == ["CPUExecutionProvider"]


def test_auto_gives_what_works_and_says_why() -> None:
    device, report = choose_device("auto"), available_providers()
    assert device.is_cuda is report.cuda_works
    assert device.reason in device.describe()
    assert device.reason
    if device.is_cuda:
        assert [name for name, _ in device.provider_list()] == [
            "CUDAExecutionProvider",
            "CPUExecutionProvider",
        ]


def test_demanding_cuda_where_it_does_not_work_is_an_error() -> None:
    report = available_providers()
    if report.cuda_works:
        assert choose_device("cuda").name == "cuda:0"
    else:
        with pytest.raises(SettingsError, match="the device is set to cuda, but"):
            choose_device("cuda")


def test_the_report_tells_what_doctor_shows() -> None:
    report = available_providers()
    assert "CPUExecutionProvider" in report.providers
    assert report.onnxruntime[0].isdigit()
    assert report.cores == usable_cores() >= 1
