"""The filter, run in an interpreter of its own kind: what it answers for every system call."""

from __future__ import annotations

import struct

import pytest

from puna.sandbox import seccomp

ALLOW, KILL = seccomp.ALLOW, seccomp.KILL


def answer(program: bytes, number: int, *arguments: int, audit: int) -> int:
    """What the kernel's classic BPF machine would return (Documentation/networking/filter.rst)."""
    code = [struct.unpack("HBBI", program[i : i + 8]) for i in range(0, len(program), 8)]
    data = struct.pack("IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    accumulator, at = 0, 0
    while True:
        operation, yes, no, k = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("I", data, k)
        elif operation == 0x05:
            at += k
        elif operation == 0x06:
            return k
        else:
            truth = {
                0x15: accumulator == k,
                0x25: accumulator > k,
                0x35: accumulator >= k,
                0x45: bool(accumulator & k),
            }[operation]
            at += yes if truth else no


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_every_number_gets_its_answer(machine: str) -> None:
    column, audit = seccomp.ARCHITECTURES[machine]
    program = seccomp.program(machine, sockets=True)
    assert len(program) % 8 == 0
    assert len(program) < 4096 * 8  # the kernel's limit
    denied = {n[column] for n in seccomp.DENIED.values()} - {None}
    looked_at = {n[column] for n in seccomp.CALLS.values()}
    assert len(denied) > 50
    for number in [*range(600), 0x40000000, 0x40000027, 0xFFFFFFFF]:
        given = answer(program, number, audit=audit)
        if number > seccomp.NEWEST:
            assert given == 0x00050026  # ENOSYS
        elif number in denied:
            assert given == 0x00050001, number  # EPERM
        elif number not in looked_at:
            assert given == ALLOW, number
    assert answer(program, 0, audit=audit ^ 1) == KILL  # another architecture, as int 0x80 is


@pytest.mark.parametrize("machine", seccomp.ARCHITECTURES)
def test_arguments_are_looked_at(machine: str) -> None:
    column, audit = seccomp.ARCHITECTURES[machine]
    program = seccomp.program(machine, sockets=True)
    without = seccomp.program(machine, sockets=False)

    def ask(name: str, *arguments: int, program: bytes = program) -> int:
        return answer(program, seccomp.CALLS[name][column], *arguments, audit=audit)

    assert ask("clone", 0x11) == ask("clone", 0x3D0F00) == ALLOW  # fork, pthread_create
    for flag in (0x20000, 0x2000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
        assert ask("clone", flag | 0x11) == 0x00050001
    assert ask("clone3", 0) == 0x00050026
    assert [ask("socket", family) == ALLOW for family in (1, 2, 10, 16, 17, 38, 40)] == [
        *[True] * 3,
        *[False] * 4,
    ]
    assert ask("bind", 3) == ALLOW != ask("bind", 3, program=without)
    assert all(ask("socket", family, program=without) != ALLOW for family in (1, 2, 10, 16))
    assert ask("socketpair", 1, program=without) == ALLOW
    assert ask("socketpair", 1) == ALLOW != ask("socketpair", 16)
    assert ask("ioctl", 0, 0x5401) == ALLOW != ask("ioctl", 0, 0x5412)
    assert ask("ioctl", 0, 1 << 32 | 0x5412) != ALLOW  # the kernel looks at 32 bits, as we do
    assert ask("personality", 0xFFFFFFFF) == ALLOW != ask("personality", 0x0400000)


def test_the_numbers_are_those_of_this_system() -> None:
    """Names and numbers as the C library's headers have them, where they are installed."""
    import platform
    from pathlib import Path

    machine = platform.machine()
    headers = [*Path("/usr/include").rglob("asm/unistd_64.h")]
    if machine != "x86_64" or not headers:
        pytest.skip("needs the kernel's headers (linux-libc-dev) on x86_64")
    known = dict(
        line.split()[1:3]
        for line in headers[0].read_text().splitlines()
        if line.startswith("#define __NR_")
    )
    for name, numbers in {**seccomp.DENIED, **seccomp.CALLS}.items():
        if f"__NR_{name}" in known:
            assert int(known[f"__NR_{name}"]) == numbers[0], name
    generic = Path("/usr/include/asm-generic/unistd.h").read_text()
    others = dict(
        line.split()[1:3]
        for line in generic.splitlines()
        if line.startswith("#define __NR_") and len(line.split()) > 2
    )
    for name, numbers in {**seccomp.DENIED, **seccomp.CALLS}.items():
        if others.get(f"__NR_{name}", "").isdigit():
            assert int(others[f"__NR_{name}"]) == numbers[1], name
