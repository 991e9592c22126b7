# SPDX-License-Identifier: Apache-2.0
"""Functions in machine code: where they return, and which ones are refused.

The code is written as hexadecimal bytes with the instruction beside it, one per line.
"""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.tls.returns import MACHINES, Bounds, Exits, Refusal, locate

START = 0x1000
# Where a tail jump of the cases leads.
ELSEWHERE = 0x2000

X86 = {
    "one return": ("c3 ret", [0]),
    "after endbr64": ("f30f1efa endbr64; 31c0 xor eax,eax; c3 ret", [6]),
    "several": ("85ff test edi,edi; 7401 je +1; c3 ret; 31c0 xor eax,eax; c3 ret", [4, 7]),
    "with a prefix": ("7402 je +2; f3c3 repz ret; f2c3 bnd ret", [2, 4]),
    "that drops arguments": ("c20800 ret 8", [0]),
    "0xc3 in an operand": ("b8c3c3c3c3 mov eax,0xc3c3c3c3; c3 ret", [5]),
    "padding inside": ("7405 je +5; 0f1f4000 nop; 90 nop; c3 ret", [7]),
    "padding at the end": ("c3 ret; 6690 xchg ax,ax; cc int3; cc int3", [0]),
    "a call that never returns": ("7401 je +1; c3 ret; e800000000 call", [2]),
    "a trap": ("7401 je +1; c3 ret; 0f0b ud2", [2]),
    "a loop": ("e2fe loop -2; e3fc jrcxz -4; c3 ret", [4]),
    "a switch": (
        "48630482 movsxd rax,[rdx+rax*4]; 4801d0 add rax,rdx; ffe0 jmp rax; c3 ret",
        [9],
    ),
    "a switch with CET": ("3effe0 notrack jmp rax; c3 ret", [3]),
    "a switch without PIC": ("ff24c500000000 jmp [rax*8]; c3 ret", [7]),
}
ARM = {
    "one return": ("d65f03c0 ret", [0]),
    "after a landing pad": ("d503245f bti c; d503233f paciasp; d65f0bff retaa", [8]),
    "several": ("b4000040 cbz x0,+8; d65f03c0 ret; 52800000 mov w0,0; d65f03c0 ret", [4, 12]),
    "conditions": ("54000040 b.eq +8; 36000020 tbz +4; d65f03c0 ret", [8]),
    "padding at the end": ("d65f03c0 ret; d503201f nop; 00000000; 00000000", [0]),
    "a call that never returns": ("b4000040 cbz x0,+8; d65f03c0 ret; 94000000 bl", [4]),
    "a trap": ("b4000040 cbz x0,+8; d65f03c0 ret; d4200020 brk", [4]),
    "a switch": ("8b020020 add x0,x1,x2; d61f0000 br x0; d65f03c0 ret", [8]),
}
REFUSED_X86 = {
    "an undefined instruction": ("06; c3 ret", "are no instruction"),
    "an instruction that does not end": ("31c0 xor eax,eax; b8 mov eax", "are no instruction"),
    "data": ("eb02 jmp +2; b8c3 data; 31c0 xor; c3 ret; c3 ret", "into an instruction at 0x1004"),
    "no end": ("31c0 xor eax,eax", "not the end of its code"),
    "no end after a condition": ("c3 ret; 74fd je -3", "not the end of its code"),
    "no return": ("ebfe jmp -2", "never returns"),
    "a tail jump through a pointer": ("ff6030 jmp [rax+0x30]", "through a pointer at 0x1000"),
    "a tail jump through a register": ("ffe0 jmp rax; c3 ret", "through a pointer at 0x1000"),
    "the linkage table": ("ff2500000000 jmp [rip]", "through a pointer at 0x1000"),
    "an unknown target": ("e9fbff0000 jmp +0xfffb", "to 0x11000, where no function is known"),
    "the kernel's return": ("48cf iretq", "it has iretq at 0x1000"),
    "another segment": ("cb retf", "it has retf at 0x1000"),
    "a jump of 16 bits": ("66e900000000 jmp; c3 ret", "it has jmp at 0x1000"),
    "nothing": ("", "size is unknown"),
}
REFUSED_ARM = {
    "an undefined instruction": ("00000001 udf 1; d65f03c0 ret", "it has udf at 0x1000"),
    "zeros inside": ("14000002 b +8; 00000000; d65f03c0 ret", "it has udf at 0x1004"),
    "data": ("58000048 ldr x8,+8; d65f03c0 ret; ffffffff", "are no instruction"),
    "no end": ("52800000 mov w0,0", "not the end of its code"),
    "no end after a condition": ("d65f03c0 ret; 54ffffe0 b.eq -4", "not the end of its code"),
    "a tail jump through a pointer": ("d61f0020 br x1", "through a pointer at 0x1000"),
    "the linkage table": ("91000210 add x16,x16,0; d61f0220 br x17", "a pointer at 0x1004"),
    "an unknown target": ("14004000 b +0x10000", "to 0x11000, where no function is known"),
    "the kernel's return": ("d69f03e0 eret", "it has eret at 0x1000"),
}
# The other function has other bounds than the jump's target in the second and third.
TAILS_X86 = {
    "another function": ("e9fb0f0000 jmp 0x2000", ELSEWHERE, "31c0 xor; c3 ret", [0x2002]),
    "a part that jumps back": (
        "0f84fa0f0000 je 0x2000; c3 ret",
        ELSEWHERE,
        "31c0 xor eax,eax; e9ffefffff jmp 0x1006",
        [0x1006],
    ),
    "into a part": (
        "0f84fa0f0000 je 0x2000; c3 ret",
        ELSEWHERE - 2,
        "0f0b ud2; 31c0 xor eax,eax; c3 ret",
        [0x1006, 0x2002],
    ),
    "on a condition": ("0f84fa0f0000 je 0x2000; c3 ret", ELSEWHERE, "c3 ret", [0x1006, 0x2000]),
}


def code(text: str, machine: str) -> bytes:
    words = [bytes.fromhex(line.split()[0]) for line in text.split(";") if line.strip()]
    # An instruction of AArch64 is written as a number, and stored in little-endian order.
    return b"".join(word[::-1] if machine == "aarch64" else word for word in words)


def found(machine: str, function: str, other: tuple[int, str] = (0, "")) -> Exits | Refusal:
    """Locate the returns of a function at START, with another one known at an address."""
    memory = {START: code(function, machine), other[0]: code(other[1], machine)}

    def read(address: int, size: int) -> bytes:
        for start, content in memory.items():
            if start <= address < start + len(content):
                return content[address - start :][:size]
        return b""

    def bounds_of(address: int) -> Bounds | None:
        bounds = Bounds(other[0], other[0] + len(memory[other[0]]))
        return bounds if bounds.start <= address < bounds.stop else None

    return locate(Bounds(START, START + len(memory[START])), machine, read, bounds_of)


def cases(
    x86: dict[str, tuple[str, object]], arm: dict[str, tuple[str, object]]
) -> pytest.MarkDecorator:
    tables = {"x86_64": x86, "aarch64": arm}
    return pytest.mark.parametrize(
        ("machine", "function", "expected"),
        [
            pytest.param(machine, *case, id=f"{machine}: {name}")
            for machine, table in tables.items()
            for name, case in table.items()
        ],
    )


@cases(X86, ARM)
def test_returns_are_found(machine: str, function: str, expected: list[int]) -> None:
    exits = found(machine, function)
    assert exits == Exits(tuple(START + offset for offset in expected))


@cases(REFUSED_X86, REFUSED_ARM)
def test_when_in_doubt_it_is_refused(machine: str, function: str, expected: str) -> None:
    refusal = found(machine, function)
    assert isinstance(refusal, Refusal)
    assert expected in refusal.reason


@pytest.mark.parametrize(
    ("function", "start", "other", "expected"), TAILS_X86.values(), ids=TAILS_X86.keys()
)
def test_tail_jumps_are_followed(
    function: str, start: int, other: str, expected: list[int]
) -> None:
    exits = found("x86_64", function, (start, other))
    assert isinstance(exits, Exits)
    assert exits.returns == tuple(expected)


def test_only_a_function_without_a_return_of_its_own_forwards() -> None:
    jump = "e9fb0f0000 jmp 0x2000"
    assert found("x86_64", jump, (ELSEWHERE, "c3 ret")) == Exits((ELSEWHERE,), ELSEWHERE)
    both = found("x86_64", f"7405 je +5; {jump[:2]}f90f0000 jmp; c3 ret", (ELSEWHERE, "c3 ret"))
    assert both == Exits((START + 7, ELSEWHERE))
    # From one function to the next one: 8 bytes on.
    arm = found("aarch64", "d503245f bti c; 140003ff b 0x2000", (ELSEWHERE, "d65f03c0 ret"))
    assert arm == Exits((ELSEWHERE,), ELSEWHERE)


def test_a_jump_between_two_instructions_of_another_function_is_refused() -> None:
    refusal = found("x86_64", "e9fb0f0000 jmp 0x2000", (ELSEWHERE - 1, "b831c0c3c3 mov; c3 ret"))
    assert refusal == Refusal("a jump leads into an instruction at 0x2000")


def test_a_veneer_of_the_linker_is_part_of_the_function() -> None:
    """Seen in libgnutls 3.8.9 of Debian 13, where no symbol and no unwind entry covers it."""
    memory = {
        START: code("14000400 b 0x2000; d65f03c0 ret", "aarch64"),
        ELSEWHERE: code("f947f800 ldr x0,[x0,4080]; 17fffc00 b 0x1004", "aarch64"),
    }

    def read(address: int, size: int) -> bytes:
        return memory[address][:size]

    bounds = Bounds(START, START + 8)
    assert locate(bounds, "aarch64", read, lambda _: None) == Exits((START + 4,))
    # A jump to anywhere else is none.
    memory[ELSEWHERE] = code("f947f800 ldr; 17fffbff b 0x1000", "aarch64")
    assert isinstance(locate(bounds, "aarch64", read, lambda _: None), Refusal)


def test_code_that_the_file_lacks_is_refused() -> None:
    bounds = Bounds(START, START + 2)
    refusal = locate(bounds, "x86_64", lambda address, size: b"\xc3", lambda _: None)
    assert refusal == Refusal("its code is not in the file")


def test_the_work_is_bounded() -> None:
    sizes: list[int] = []

    def read(address: int, size: int) -> bytes:
        sizes.append(size)
        return (b"\xe9" + (size - 5).to_bytes(4, "little") + b"\xcc" * size)[:size]

    def chain(address: int) -> Bounds:
        return Bounds(address, address + 64)

    # Each function jumps to the one after it, without end.
    refusal = locate(Bounds(START, START + 64), "x86_64", read, chain)
    assert refusal == Refusal("it is too long to decode, with the code that it jumps to")
    assert len(sizes) <= 16
    huge = locate(Bounds(START, START + (1 << 40)), "x86_64", read, chain)
    assert huge == refusal
    assert max(sizes) == 64


@given(st.binary(min_size=1, max_size=64), st.sampled_from(sorted(MACHINES)))
def test_random_bytes_give_returns_or_a_reason(content: bytes, machine: str) -> None:
    def read(address: int, size: int) -> bytes:
        return content[address - START :][:size]

    exits = locate(Bounds(START, START + len(content)), machine, read, lambda _: None)
    if isinstance(exits, Refusal):
        assert re.fullmatch(r"[ -~]{10,100}", exits.reason)
        return
    for address in exits.returns:
        at = content[address - START :]
        if machine == "x86_64":
            # REX prefixes and others may come before it.
            assert re.match(rb"[\x26\x2e\x36\x3e\x40-\x4f\x64-\x67\xf0\xf2\xf3]*[\xc2\xc3]", at)
        else:
            assert at[3] == 0xD6
