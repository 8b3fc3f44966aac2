"""What a processor can do with 8-bit numbers, read from texts as Linux writes them."""

from __future__ import annotations

import pytest

from tlserve.runtime import this_processor
from tlserve.runtime.processor import processor_in

X86 = (
    "processor\t: 0\nmodel name\t: {name}\nflags\t\t: fpu sse4_2 avx2{more}\n\nprocessor\t: 1\nflags\t: fpu\n"
)


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni", "amx_int8"])
def test_an_x86_processor_with_8_bit_sums_in_32_bits_does_not_saturate(flag: str) -> None:
    found = processor_in(X86.format(name="Fast 9000", more=f" {flag}"), "x86_64")
    assert (found.name, found.int8, found.saturates) == ("Fast 9000", (flag,), False)
    assert found.describe() == f"Fast 9000 ({flag})"


def test_an_older_x86_processor_saturates() -> None:
    found = processor_in(X86.format(name="Old 10", more=" avx512f"), "x86_64")
    assert (found.int8, found.saturates) == ((), True)
    assert found.describe() == "Old 10 (no VNNI)"


def test_an_arm_processor_never_saturates_whatever_it_has() -> None:
    found = processor_in("processor : 0\nFeatures : fp asimd asimddp i8mm\n", "aarch64")
    assert (found.name, found.int8, found.saturates) == ("aarch64", ("i8mm", "asimddp"), False)
    assert processor_in("", "arm64", "Apple").saturates is False


@pytest.mark.parametrize("text", ["", "\x00rubbish", "flags:\n"])
@pytest.mark.parametrize("machine", ["AMD64", "riscv64", ""])
def test_what_cannot_be_told_is_not_guessed(text: str, machine: str) -> None:
    found = processor_in(text, machine)
    assert (found.int8, found.saturates) == ((), None)
    assert found.name


def test_this_machine_has_a_processor() -> None:
    assert this_processor().name
    assert this_processor() == this_processor()
