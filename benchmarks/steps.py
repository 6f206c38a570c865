"""What one trip of a kernel's time loop is: how many steps, and how many accesses to global memory.

Triton unrolls loops where it is told to and LLVM where it likes; each leaves another loop for the steps that do not
fill a trip, and a pipeline loads ahead. No trace in the text says for sure how many steps a trip is, so the LLVM IR of
the kernel is executed as far as its branches go, once for a sequence and once for a longer one: what is done more
often belongs to the steps that there are more. With a mask the loop's bounds come from memory; the kernel says at most
what they are, and the longest possible loop is played.
"""

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

import networkx as nx

STEPS = 13440
"""Steps that the longer sequence has more: whole trips, if one is at most 8 steps, or 10, 12, 14 - 16, 32, 64, 128."""

_SHORTER = 100
"""Steps of the shorter one, more than a trip or a pipeline has."""

_MOST_BLOCKS = 100
"""Blocks that a step may take before the loop is thought never to end."""


@dataclass(frozen=True, slots=True)
class Trip:
    """One trip of the time loop as LLVM leaves it.

    accesses: to global memory, by kind: "store", "load", "async copy". reads: of those that read, how many start from
    an argument of the kernel, by its place among the arguments; None for what comes from somewhere else.
    """

    steps: int
    accesses: Mapping[str, Fraction]
    reads: Mapping[int | None, Fraction] = field(default_factory=dict)


def trip_of(llvm_ir: str) -> Trip | None:
    """The trip of the loop that runs longer if every integer argument is greater; None if there is no such loop.

    Of several, as where a mask is read first, it is the one with most trips. Raises ValueError if nothing known ends
    the loop, or a trip is no whole number of steps.
    """
    function = _Function(llvm_ir)
    shorter, longer = function.play(_SHORTER), function.play(_SHORTER + STEPS)
    more = {label: longer[label] - shorter[label] for label in longer if longer[label] > shorter[label]}
    endless = {label for label in function.endless if not more or function.stores(label)}
    if endless:
        raise ValueError(f"Nothing known says when these blocks cease to repeat: {sorted(endless)}")
    if not more:
        return None
    most = max(more, key=lambda label: more[label])
    trips = more[most]
    if STEPS % trips:
        raise ValueError(f"{STEPS} steps more are {trips} trips more, so that a trip is no whole number of steps")
    accesses: Counter[str] = Counter()
    reads: Counter[int | None] = Counter()
    for label in function.loop(most) & more.keys():
        block, often = function.blocks[label], Fraction(more[label], trips)
        for kind, number in block.accesses.items():
            accesses[kind] += number * often
        for pointer in block.reads:
            for place in function.arguments_of(pointer):
                reads[place] += often
    return Trip(STEPS // trips, accesses, reads)


_ACCESSES = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        # On NVIDIA an access is a line of PTX as inline assembly, on AMD an intrinsic or an instruction of LLVM.
        ("store", r"st\.(\w+\.)*global|\.buffer\.store|\bstore [^,]+, ptr addrspace\(1\)"),
        ("async copy", r"cp\.async\.c[ag]|\.load\.(async\.)?(to\.)?lds"),
        ("load", r"ld\.(\w+\.)*global|\.buffer\.load|\bload [^,]+, ptr addrspace\(1\)"),
    )
)

_NAME = r"%[\w.$-]+"
_POINTER = re.compile(rf"ptr addrspace\([178]\) (?:\w+ )*({_NAME})")
_POINTER_PHI = re.compile(r"phi ptr addrspace\([178]\) ")
_DEFINE = re.compile(r"define .*?\((.*)\)[^()]*\{$", re.MULTILINE)
_ARGUMENT = re.compile(rf"\bi\d+\b.*?({_NAME})")
_LABEL = re.compile(r"([\w.$-]+):")
_ASSIGNMENT = re.compile(rf"({_NAME}) = (.*)")
_PHI = re.compile(r"phi i(\d+) ")
_INCOMING = re.compile(rf"\[ (\S+), ({_NAME}) \]")
_BRANCH = re.compile(rf"br i1 (\S+), label ({_NAME}), label ({_NAME})")
_ASSUMED = re.compile(rf"(?:tail )?call void @llvm\.assume\(i1 ({_NAME})\)")
_JUMP = re.compile(rf"br label ({_NAME})")
_WORD = re.compile(rf"{_NAME}|[\w.@-]+")
_OPERAND = re.compile(rf"{_NAME}|-?\d+|true|false")
_FLAGS = frozenset("tail call nuw nsw nneg exact disjoint samesign icmp to".split())

_UNSIGNED: Mapping[str, Callable[..., int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": lambda number, by: number << by if by < 64 else 0,
    "lshr": operator.rshift,
    "udiv": operator.floordiv,
    "urem": operator.mod,
    "umin": min,
    "umax": max,
    "eq": operator.eq,
    "ne": operator.ne,
    "ult": operator.lt,
    "ule": operator.le,
    "ugt": operator.gt,
    "uge": operator.ge,
    "zext": int,
    "trunc": int,
    "freeze": int,
    "select": lambda condition, a, b: a if condition else b,
}
_SIGNED: Mapping[str, Callable[..., int]] = {
    "ashr": operator.rshift,
    "sdiv": lambda a, b: abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1),
    "srem": lambda a, b: abs(a) % abs(b) * (1 if a >= 0 else -1),
    "smin": min,
    "smax": max,
    "slt": operator.lt,
    "sle": operator.le,
    "sgt": operator.gt,
    "sge": operator.ge,
    "sext": int,
}
_AT_MOST = "at most"  # what the kernel assumes of a value: it is the second operand where the first is unknown


@dataclass(frozen=True, slots=True)
class _Instruction:
    """An operation on integers; `bits` are those of its operands and `result_bits` those of what it gives."""

    name: str
    operation: str
    operands: tuple[str, ...]
    bits: int
    result_bits: int

    def value(self, values: Mapping[str, int | None]) -> int | None:
        """What it gives, without a sign; None if that depends on something unknown."""
        operands = [_operand(word, self.bits, values) for word in self.operands]
        if self.operation == _AT_MOST:
            return operands[0] if operands[0] is not None else operands[1]
        if self.operation == "and" and 0 in operands:
            return 0  # whatever the other one is
        if None in operands:
            return None
        if self.operation in _SIGNED:
            half = 1 << (self.bits - 1)
            result = _SIGNED[self.operation](*((number ^ half) - half for number in operands))
        else:
            result = _UNSIGNED[self.operation](*operands)
        return int(result) % (1 << self.result_bits)


def _operand(word: str, bits: int, values: Mapping[str, int | None]) -> int | None:
    if word.startswith("%"):
        return values.get(word)
    return int(word == "true") if word in ("true", "false") else int(word) % (1 << bits)


def _instruction(name: str, text: str) -> _Instruction | None:
    """An assignment, if it is an operation on integers; the name of an intrinsic is that of its operation."""
    words = [re.sub(r"@llvm\.(\w+)\.i\d+$", r"\1", word) for word in _WORD.findall(text) if word not in _FLAGS]
    types = [int(word[1:]) for word in words if re.fullmatch(r"i\d+", word)]
    operands = tuple(word for word in words if _OPERAND.fullmatch(word))
    rest = [word for word in words if not re.fullmatch(r"i\d+", word) and word not in operands]
    if len(rest) != 1 or not types or (operation := rest[0]) not in _UNSIGNED.keys() | _SIGNED.keys():
        return None
    compared = "icmp" in text
    return _Instruction(
        name, operation, operands, types[1 if operation == "select" else 0], 1 if compared else types[-1]
    )


@dataclass(slots=True)
class _Block:
    """A run of instructions: those on integers, and where control goes on.

    phis: the values that depend on where control came from: their bits, and the operand for each block. reads: the
    pointer of each access that reads.
    """

    phis: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    instructions: list[_Instruction] = field(default_factory=list)
    accesses: Counter[str] = field(default_factory=Counter)
    reads: list[str] = field(default_factory=list)
    condition: str = ""
    targets: tuple[str, ...] = ()


class _Function:
    """The only function of a module in LLVM IR, by its blocks.

    endless: blocks that were left for good although what decides about it is unknown.
    """

    def __init__(self, llvm_ir: str) -> None:
        define = _DEFINE.search(llvm_ir)
        if define is None:
            raise ValueError("The LLVM IR defines no function")
        self.arguments = [found[1] for text in define[1].split(", ") if (found := _ARGUMENT.match(text))]
        self.places = {text.split()[-1]: place for place, text in enumerate(define[1].split(", "))}
        self.pointers: dict[str, list[str]] = {}  # what each is made of
        self.endless: set[str] = set()
        self.blocks: dict[str, _Block] = {}
        block = self.blocks[""] = _Block()
        for line in llvm_ir[define.end() :].splitlines():
            if line == "}":
                break
            if label := _LABEL.match(line):
                block = self.blocks[f"%{label[1]}"] = _Block()
            else:
                text = line.strip().partition(", !dbg ")[0]
                _read(text, block)
                self._note_pointer(text)
        self._keep_what_branches_need()

    def _note_pointer(self, line: str) -> None:
        assignment = _ASSIGNMENT.match(line)
        if assignment and (found := _pointers(assignment[2])):
            self.pointers[assignment[1]] = found

    def arguments_of(self, pointer: str) -> set[int | None]:
        """The places of the arguments that an address is reckoned from; None for what is none."""
        found: set[int | None] = set()
        seen, waiting = {pointer}, [pointer]
        while waiting:
            name = waiting.pop()
            if name in self.pointers:
                fresh = set(self.pointers[name]) - seen
                seen |= fresh
                waiting.extend(fresh)
            else:
                found.add(self.places.get(name))
        return found

    def loop(self, label: str) -> frozenset[str]:
        """The blocks of the outermost loop around a block."""
        return self._around(label, self.blocks)

    def stores(self, label: str) -> bool:
        """Whether the loop that a block goes back in writes to global memory: one that does not may wait for something.
        It is the innermost one: others are around what waits at every step.
        """
        order = list(self.blocks)
        here = order.index(label)
        back = min(order.index(target) for target in self.blocks[label].targets if order.index(target) <= here)
        return any(self.blocks[one].accesses["store"] for one in self._around(label, order[back : here + 1]))

    def _around(self, label: str, among: Iterable[str]) -> frozenset[str]:
        """The blocks of some that control can come back from to a block."""
        known = set(among)
        edges = ((one, target) for one in known for target in self.blocks[one].targets if target in known)
        graph = nx.DiGraph(edges)
        graph.add_node(label)
        return frozenset(next(part for part in nx.strongly_connected_components(graph) if label in part))

    def _keep_what_branches_need(self) -> None:
        needed = {block.condition for block in self.blocks.values()}
        users = {name: phi[1].values() for block in self.blocks.values() for name, phi in block.phis.items()}
        for block in self.blocks.values():
            for one in block.instructions:
                users[one.name] = (*users.get(one.name, ()), *one.operands)
        waiting = list(needed)
        while waiting:
            fresh = set(users.get(waiting.pop(), ())) - needed
            needed |= fresh
            waiting.extend(fresh)
        for block in self.blocks.values():
            block.phis = {name: phi for name, phi in block.phis.items() if name in needed}
            block.instructions = [one for one in block.instructions if one.name in needed]

    def play(self, steps: int) -> Counter[str]:
        """How often each block is executed if every integer argument is `steps`.

        A branch on something unknown goes on rather than back, so that what a program waits for has come, and to where
        there are more accesses, as a mask that is set does.
        """
        place = {label: number for number, label in enumerate(self.blocks)}
        values: dict[str, int | None] = dict.fromkeys(self.arguments, steps)
        times: Counter[str] = Counter()
        last, here = "", ""
        while True:
            block = self.blocks[here]
            times[here] += 1
            if times[here] > _MOST_BLOCKS * steps:
                raise ValueError(f"The loop at block '{here}' does not end after {steps} steps")
            values |= {
                name: _operand(self._arriving(incoming, last), bits, values)
                for name, (bits, incoming) in block.phis.items()
            }
            for one in block.instructions:
                values[one.name] = one.value(values)
            if not block.targets:
                return times
            condition = _operand(block.condition, 1, values) if block.condition else 1
            if condition is None:
                onwards = [label for label in block.targets if place[label] > place[here]] or block.targets
                if len(onwards) < len(block.targets):
                    self.endless.add(here)
                target = max(onwards, key=lambda label: self.blocks[label].accesses.total())
            else:
                target = block.targets[0 if condition else -1]
            last, here = here, target

    def _arriving(self, incoming: Mapping[str, str], last: str) -> str:
        """The value of a phi, coming from block `last`; the first block's label is written nowhere but in phis."""
        return incoming[last] if last else next(text for label, text in incoming.items() if label not in self.blocks)


def _pointers(text: str) -> list[str]:
    """The pointers to global memory among the operands of an instruction."""
    if _POINTER_PHI.match(text):
        return [value for value, _ in _INCOMING.findall(text)]
    return _POINTER.findall(text)


def _read(line: str, block: _Block) -> None:
    """Add one line to its block."""
    for kind, pattern in _ACCESSES:
        if pattern.search(line):
            block.accesses[kind] += 1
            if kind != "store":
                block.reads += _pointers(line)[:1]
            break
    if branch := _BRANCH.match(line):
        block.condition, block.targets = branch[1], (branch[2], branch[3])
    elif jump := _JUMP.match(line):
        block.targets = (jump[1],)
    elif line.startswith(("switch ", "indirectbr ", "invoke ")):
        raise ValueError(f"A branch of this kind is not understood: {line}")
    elif assumed := _ASSUMED.match(line):
        block.instructions += [
            replace(one, name=one.operands[0], operation=_AT_MOST, result_bits=one.bits)
            for one in block.instructions
            if one.name == assumed[1] and one.operation == "sle"
        ]
    elif assignment := _ASSIGNMENT.match(line):
        name, text = assignment[1], assignment[2]
        if phi := _PHI.match(text):
            block.phis[name] = int(phi[1]), {label: value for value, label in _INCOMING.findall(text)}
        elif one := _instruction(name, text):
            block.instructions.append(one)
