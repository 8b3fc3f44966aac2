from __future__ import annotations

import pytest

from tlserve.core.errors import SettingsError
from tlserve.runtime import Device, available_providers, choose_device, choose_devices, usable_cores
from tlserve.runtime.probe import CUDA_PROVIDER, gpu_count, gpu_name


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


@pytest.mark.parametrize("preference", ["auto", "cpu"])
def test_there_is_always_a_device_and_one_process_takes_the_first(preference: str) -> None:
    devices = choose_devices(preference)
    assert devices[0] == choose_device(preference)
    assert len({device.name for device in devices}) == len(devices)


@pytest.mark.parametrize("preference", ["gpu", "cuda:", "cpu,cuda:0", "cuda:0,cuda:0", ""])
def test_a_wish_that_cannot_be_read_is_a_settings_error(preference: str) -> None:
    with pytest.raises(SettingsError, match=r"the device (must be auto|names a GPU twice)"):
        choose_devices(preference)


def test_a_gpu_that_is_not_there_is_named() -> None:
    missing = gpu_count()
    with pytest.raises(SettingsError, match=f"the device is set to cuda:{missing}, but "):
        choose_devices(f"cuda:{missing}")


@pytest.mark.parametrize("preference", ["cpu", "auto"])
def test_tensorrt_without_a_gpu_is_an_error_that_says_why(preference: str) -> None:
    device = choose_device(preference)
    if device.is_cuda:
        pytest.skip("a GPU is here: tests/runtime/test_cuda.py asks it")
    with pytest.raises(SettingsError, match="tensorrt is set, but it needs a GPU") as told:
        choose_devices(preference, tensorrt=True)
    assert device.reason in str(told.value)


def test_a_gpu_is_given_to_onnxruntime_with_a_bounded_arena_and_the_cpu_behind_it() -> None:
    gpu = Device("cuda:1", CUDA_PROVIDER, (("device_id", "1"), ("gpu_mem_limit", "1048576")), device_id=1)
    options = {"device_id": "1", "gpu_mem_limit": "1048576"}
    assert gpu.provider_list() == [(CUDA_PROVIDER, options), ("CPUExecutionProvider", {})]
    assert gpu.provider_list(graphs=True)[0] == (CUDA_PROVIDER, options | {"enable_cuda_graph": "1"})


def test_a_gpu_that_is_not_there_has_no_name() -> None:
    assert gpu_name(gpu_count()) == ""
    assert all(gpu_name(gpu) for gpu in range(gpu_count()))


def test_the_report_tells_what_doctor_shows() -> None:
    report = available_providers()
    assert "CPUExecutionProvider" in report.providers
    assert report.onnxruntime[0].isdigit()
    assert report.cores == usable_cores() >= 1
