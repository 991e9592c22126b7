# SPDX-License-Identifier: Apache-2.0
"""Finds where a function returns, so that probes replace the kernel's return probes.

A return probe changes the return address on the stack. This crashes Go programs
(golang/go #22008), and from Linux 6.11 on seccomp filters kill processes at its trampoline, a
system call. Probes on the RET instructions change only code. A breakpoint inside an instruction
would crash the process, so the rule is: refuse when in doubt.

Capstone decodes a function from its first byte. :func:`locate` refuses if

- an instruction is undefined, or the last one does not end exactly at the function's end;
- a jump leads between two instructions: then data was decoded as code;
- the end is reached without a return, jump, call or trap: the function continues elsewhere;
- it leaves by a jump to an address that is unknown, or to code with unknown bounds.

A *tail jump* leaves the function to return from another one, or from a part that the compiler
placed elsewhere (``.cold``). Its target is decoded by the same rules, and the target's returns
count too. So another caller of the target reaches the same probes: a return belongs to the call
that was entered with the same stack pointer. (Go moves stacks, but the Go compiler emits no tail
jumps in the functions that are probed.)

An indirect jump is either one through a jump table, which stays inside the function, or a tail
jump through a pointer. It counts as a jump table only if its form is one that compilers emit for
these. Linear decoding does not need the table. A wrong guess misses a return and harms nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import capstone
from capstone import arm64_const as arm
from capstone import x86_const as x86

# The longest function that is probed, with the targets of its tail jumps, has 3.6 KB.
_MAX_BYTES = 16 * 1024
_MAX_PARTS = 16

MACHINES = {
    "x86_64": (capstone.CS_ARCH_X86, capstone.CS_MODE_64),
    "aarch64": (capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM),
}
"""The machines whose code can be decoded, named as by uname(2)."""


class Bounds(NamedTuple):
    """A function, or a part of one: virtual addresses. ``stop`` is after its last byte."""

    start: int
    stop: int


@dataclass(frozen=True)
class Exits:
    """Where a function returns.

    ``returns`` are the addresses of its RET instructions and those of its tail jumps' targets,
    sorted. ``forwards_to`` is set if the function has no RET of its own and always leaves to
    that one address: it is another name for the function there.
    """

    returns: tuple[int, ...]
    forwards_to: int | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a function cannot be probed, for people."""

    reason: str


class _Refused(Exception):
    """Carries the reason out of the decoding."""


def locate(
    function: Bounds,
    machine: str,
    read: Callable[[int, int], bytes],
    bounds_of: Callable[[int], Bounds | None],
) -> Exits | Refusal:
    """Find the returns of ``function``.

    ``read(address, size)`` returns the bytes at a virtual address, fewer if there are no more.
    ``bounds_of(address)`` returns the function or part that contains an address, if known.
    """
    parts: dict[Bounds, _Part] = {}
    wanted = [function]
    budget = _MAX_BYTES
    try:
        while wanted:
            bounds = wanted.pop()
            budget -= bounds.stop - bounds.start
            if budget < 0 or len(parts) == _MAX_PARTS:
                raise _Refused("it is too long to decode, with the code that it jumps to")
            parts[bounds] = part = _decode(bounds, machine, read)
            for source, target in part.jumps.items():
                if not any(start <= target < stop for start, stop in [*parts, *wanted]):
                    veneer = _veneer(source, target, machine, read)
                    wanted.append(veneer or _found(target, bounds_of))
        _check_targets(parts)
    except _Refused as refused:
        return Refusal(str(refused))
    own = parts[function]
    left = {to for to in own.jumps.values() if not function.start <= to < function.stop}
    returns = sorted({address for part in parts.values() for address in part.returns})
    if not returns:
        return Refusal("it never returns")
    return Exits(tuple(returns), left.pop() if not own.returns and len(left) == 1 else None)


@dataclass
class _Part:
    starts: set[int] = field(default_factory=set)
    """Addresses of all instructions."""

    returns: list[int] = field(default_factory=list)
    jumps: dict[int, int] = field(default_factory=dict)
    """Address of a direct jump: address that it leads to."""


def _found(target: int, bounds_of: Callable[[int], Bounds | None]) -> Bounds:
    bounds = bounds_of(target)
    if bounds is None or not bounds.start <= target < bounds.stop:
        raise _Refused(f"it leaves by a jump to {target:#x}, where no function is known")
    return bounds


def _veneer(
    source: int, target: int, machine: str, read: Callable[[int, int], bytes]
) -> Bounds | None:
    """Return the bounds of a linker's veneer for erratum 843419 of the Cortex-A53.

    The linker moves one instruction there and puts a jump in its place. A veneer has no symbol:
    it is that instruction and a jump back.
    """
    if machine != "aarch64":
        return None
    back = list(_disassembled(machine, read(target, 8), target))[1:]
    if not back or back[0].id != arm.ARM64_INS_B or back[0].operands[0].imm != source + 4:
        return None
    return Bounds(target, target + 8)


def _check_targets(parts: dict[Bounds, _Part]) -> None:
    starts = set().union(*(part.starts for part in parts.values()))
    for part in parts.values():
        for target in part.jumps.values():
            if target not in starts:
                raise _Refused(f"a jump leads into an instruction at {target:#x}")


def _decode(bounds: Bounds, machine: str, read: Callable[[int, int], bytes]) -> _Part:
    size = bounds.stop - bounds.start
    if size <= 0:
        raise _Refused("its size is unknown")
    code = read(bounds.start, size)
    if len(code) < size:
        raise _Refused("its code is not in the file")
    while machine == "aarch64" and code.endswith(_ARM_FILL):
        code = code[: -len(_ARM_FILL)]
    flow_of = _x86_flow if machine == "x86_64" else _arm_flow
    part = _Part()
    at = bounds.start
    continues = True
    before: capstone.CsInsn | None = None
    for instruction in _disassembled(machine, code, at):
        at += instruction.size
        part.starts.add(instruction.address)
        flow = flow_of(instruction, before)
        if flow.is_padding:
            continue
        if flow.returns:
            part.returns.append(instruction.address)
        if flow.target is not None:
            part.jumps[instruction.address] = flow.target
        continues = flow.continues
        before = instruction
    if at != bounds.start + len(code):
        raise _Refused(f"the bytes at {at:#x} are no instruction that ends within it")
    if continues:
        raise _Refused("its end is not the end of its code")
    return part


def _disassembled(machine: str, code: bytes, address: int) -> Iterator[capstone.CsInsn]:
    return _decoder(machine).disasm(code, address)  # type: ignore[no-any-return]


@cache
def _decoder(machine: str) -> capstone.Cs:
    decoder = capstone.Cs(*MACHINES[machine])
    decoder.detail = True
    return decoder


class _Flow(NamedTuple):
    """What an instruction does to the flow of control."""

    continues: bool = True
    """Whether the next instruction can be reached from it."""

    returns: bool = False
    target: int | None = None
    """Where a direct jump leads, conditional or not."""

    is_padding: bool = False
    """Whether it may be there only to align what follows."""


def _pointer(instruction: capstone.CsInsn) -> _Refused:
    return _Refused(f"it leaves by a jump through a pointer at {instruction.address:#x}")


def _foreign(instruction: capstone.CsInsn) -> _Refused:
    return _Refused(f"it has {instruction.mnemonic} at {instruction.address:#x}")


# A call may be one that never returns, such as abort() or Go's panics.
_X86_ENDS = {x86.X86_INS_CALL, x86.X86_INS_UD1, x86.X86_INS_UD2, x86.X86_INS_HLT}
_X86_PADDING = {x86.X86_INS_NOP, x86.X86_INS_INT3}
# Returns and jumps of the kernel and to other segments: no function of a library has them.
_X86_FOREIGN = {
    *(x86.X86_INS_RETF, x86.X86_INS_RETFQ, x86.X86_INS_IRET, x86.X86_INS_IRETD),
    *(x86.X86_INS_IRETQ, x86.X86_INS_SYSRET, x86.X86_INS_SYSEXIT, x86.X86_INS_LJMP),
}
_NOTRACK = 0x3E
_OPERAND_SIZE = 0x66
_REX_W = 8


def _x86_flow(instruction: capstone.CsInsn, before: capstone.CsInsn | None) -> _Flow:
    is_jump = instruction.group(capstone.CS_GRP_JUMP)
    is_relative = instruction.group(capstone.CS_GRP_BRANCH_RELATIVE)
    is_return = instruction.id == x86.X86_INS_RET
    # With 16-bit operands Intel's and AMD's processors disagree on the length.
    is_short = _OPERAND_SIZE in instruction.prefix and not instruction.rex & _REX_W
    if instruction.id in _X86_FOREIGN or (is_short and (is_relative or is_return)):
        raise _foreign(instruction)
    if instruction.id in _X86_PADDING:
        return _Flow(is_padding=True)
    if is_return:
        return _Flow(continues=False, returns=True)
    if instruction.id in _X86_ENDS:
        return _Flow(continues=False)
    if is_relative:
        target = int(instruction.operands[0].imm)
        return _Flow(continues=instruction.id != x86.X86_INS_JMP, target=target)
    if is_jump and not _x86_uses_table(instruction, before):
        raise _pointer(instruction)
    return _Flow(continues=not is_jump)


def _x86_uses_table(instruction: capstone.CsInsn, before: capstone.CsInsn | None) -> bool:
    # -fcf-protection gives the jumps of a switch this prefix, and no others.
    if _NOTRACK in instruction.prefix:
        return True
    operand = instruction.operands[0]
    if operand.type == x86.X86_OP_MEM:
        return bool(operand.mem.index != x86.X86_REG_INVALID and operand.mem.scale == 8)
    # A table of distances: the last step adds the table's address.
    return bool(
        before is not None
        and before.id == x86.X86_INS_ADD
        and before.operands[0].type == x86.X86_OP_REG
        and before.operands[0].reg == operand.reg
    )


# Go fills the space between functions with zeros, which would be undefined instructions.
_ARM_FILL = bytes(4)
_ARM_RETURNS = {arm.ARM64_INS_RET, arm.ARM64_INS_RETAA, arm.ARM64_INS_RETAB}
_ARM_ENDS = {
    *(arm.ARM64_INS_BL, arm.ARM64_INS_BLR, arm.ARM64_INS_BLRAA, arm.ARM64_INS_BLRAAZ),
    *(arm.ARM64_INS_BLRAB, arm.ARM64_INS_BLRABZ, arm.ARM64_INS_BRK),
}
_ARM_DIRECT = {
    *(arm.ARM64_INS_B, arm.ARM64_INS_BC, arm.ARM64_INS_CBZ, arm.ARM64_INS_CBNZ),
    *(arm.ARM64_INS_TBZ, arm.ARM64_INS_TBNZ),
}
_ARM_INDIRECT = {
    *(arm.ARM64_INS_BR, arm.ARM64_INS_BRAA, arm.ARM64_INS_BRAAZ),
    *(arm.ARM64_INS_BRAB, arm.ARM64_INS_BRABZ),
}
_ARM_FOREIGN = {
    *(arm.ARM64_INS_UDF, arm.ARM64_INS_ERET, arm.ARM64_INS_ERETAA, arm.ARM64_INS_ERETAB),
    arm.ARM64_INS_DRPS,
}
_ARM_UNCONDITIONAL = {arm.ARM64_CC_INVALID, arm.ARM64_CC_AL, arm.ARM64_CC_NV}


def _arm_flow(instruction: capstone.CsInsn, before: capstone.CsInsn | None) -> _Flow:
    if instruction.id in _ARM_FOREIGN:
        raise _foreign(instruction)
    if instruction.id == arm.ARM64_INS_NOP:
        return _Flow(is_padding=True)
    if instruction.id in _ARM_RETURNS:
        return _Flow(continues=False, returns=True)
    if instruction.id in _ARM_ENDS:
        return _Flow(continues=False)
    if instruction.id in _ARM_DIRECT:
        always = instruction.id == arm.ARM64_INS_B and instruction.cc in _ARM_UNCONDITIONAL
        return _Flow(continues=not always, target=int(instruction.operands[-1].imm))
    if instruction.id in _ARM_INDIRECT:
        # A table of distances: the last step adds the table's address.
        uses_table = (
            before is not None
            and before.id == arm.ARM64_INS_ADD
            and before.operands[0].reg == instruction.operands[0].reg
        )
        if not uses_table:
            raise _pointer(instruction)
        return _Flow(continues=False)
    return _Flow()
