"""Cells that nobody thought of, and calls of them: drawn by hypothesis, judged by `rnngen.reference`.

`cells()` draws the text of a file, `calls(text)` sizes and options of a layer, and `check` compares every output and
every gradient of a layer, by the schedules that this process can run, with the cell as it was described. The tests draw
a few, `fuzz.py` as many as it has time for, and what it finds is kept in `found/`, a file for each.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from cells import save_of, wrappers_of
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnngen import reference
from rnngen.compile import programs_of
from rnngen.description import describe
from rnngen.ir import Program
from rnngen.runtime import again, agreement, chunked, node, sweep
from rnngen.runtime.language import interpreting
from rnngen.runtime.plan import NotPossible
from rnngen.source import Source
from rnngen.wrappers import WRAPPERS

_Inputs = dict[str, Tensor]  # what comes in at each step, by name
FOUND = Path(__file__).parent / "found"
STATES = ("h", "c", "m")
COUNTER = "n"  # a state that counts down to the end of its sequence, so that its root is no number at padding
SHAPES = {
    "W": '["hidden", "inputs"]',
    "U": '["hidden", "hidden"]',
    "R": '["hidden", "hidden"]',  # block-diagonal
    "M": '["inputs", "hidden"]',
    "N": '["rank", "hidden"]',
    "K": '["hidden", "rank"]',
    "b": '["hidden"]',
    "k": "[]",
}
BLOCKS = 2  # of parameters that are used whole
RATE = 0.3  # of wrappers that have one
OTHERS = {"g": '["hidden"]', "u": '["inputs"]', "s": "[]"}  # what comes in beside x
# States that only remember, each with its new value; q is behind p.
REMEMBERED = {"e": "tanh(W_2 @ x + W_1 @ {x})", "o": "mean({x})", "p": "x", "q": "p"}
WIDTHS = {"e": '["hidden"]', "o": "[]", "p": '["inputs"]', "q": '["inputs"]', "v": '["rank"]'}
NARROW_STATE = "(K_3 @ v)"  # how equations see the state v
EARLIER = ("lag(h)", "lag(h', 2)", "lag(h, 2)")
_BLOCK = re.compile(r"\b[WURMNKbk]_\d\b")
_PRODUCT = re.compile(r"[UR]_\d @ \w+'?")
# Matrices made of others, by the kind that they take the place of.
MADE = {
    "W": ("({W} - 0.3 * {W})", "({W} * {W})", "tril({W})", "({U} @ {W})", "tanh({W})", "{M}.T"),
    "M": ("({M} + {M})", "({M} @ {U}.T)", "{W}.T", "triu({M})"),
    "U": (
        *("({U} - 0.3 * {U})", "({U} * {U})", "{U}.T", "({U} - {U}.T - rate * eye({U}))", "tril({U})", "({U} @ {U})"),
        *("diag({b})", "(triu({U}) - {U}).T", "sigmoid({U})", "({k} * {U})", "where({U} < {U}, {U}, 0.5)"),
    ),
    "R": ("({R} - {R}.T)", "({R} @ tril({R}))", "({k} * {R} - eye({R}) / 2)", "({R} * {R}).T", "-triu({R})"),
}
DERIVED = tuple(
    f"{name}({{}})"
    for name in "softplus silu gelu elu selu mish softsign tanhshrink hardtanh hardsigmoid hardswish leaky_relu relu6 "
    "logsigmoid".split()
)
UNARY = (*(f"{name}({{}})" for name in "tanh sigmoid sin cos erf relu abs".split()), *DERIVED)
UNARY += ("-{}", "exp(-softplus({}))", "sqrt(1.5 + sin({}))", "log(2 + cos({}))", "log1p(sigmoid({}))")
UNARY += ("floor(3 * {} + 0.37)", "({} + 0.13) % 0.7")  # what jumps does not jump at the numbers below, nor at zero
# Of units: a vector like the operand, or a number.
NORMS = ("layer_norm({})", "rms_norm({})", "softmax({})")
NUMBERS_OF_UNITS = ("mean({})", "(0.2 * sum({}))", "tanh(dot({}, {state}))", "sigmoid(mean({}))")
NARROW = ("{}", "{}", "tanh({})", "(0.3 - {})", "({0} * {0})", "rms_norm({})")  # of a vector of another width
# Of several blocks at once: {} is such a value, {one} another, {state} a vector.
OF_BLOCKS = (
    *("{} + {one}", "{} - {one}", "{one} * tanh({})", "0.5 * {}", "rate - {}", "pack_k * ({})", "max({}, {one})"),
    *("where({} > 0.01, {}, 0.4 * ({}))", "sigmoid({})", "{} / (1.5 + sigmoid({one}))", "softplus({})"),
    *NORMS,
    *("{one} - mean({})", "{one} * sum({}) * 0.2", "tanh(dot({}, {one})) * {one}", "sigmoid(mean({})) * ({})"),
)
BOUNDED = ("tanh({})", "sigmoid({})", "0.5 * sin({})", "0.9 * {state} + 0.1 * tanh({})", "softsign({})")
NUMBERS = ("0.5", "1", "rate", "(-0.25)", "2", "0")


RANK = "sizes = { rank = 2 }"
AS_WIDE = 'x = { shape = ["hidden"] }'


class _Writer:
    """Writes expressions. vectors: names that an expression may use. written: parts, to be used once more. others: what
    comes in beside x. linear: nothing looks across what depends on a state.
    """

    def __init__(self, draw: Callable, states: list[str], products: bool, linear: bool = False):
        self.draw, self.products, self.linear = draw, products, linear
        self.others = sorted(draw(st.sets(st.sampled_from(sorted(OTHERS))))) if draw(st.integers(0, 3)) == 3 else []
        self.remembered: list[str] = []
        self.earlier: list[str] = []  # of x
        self.vectors = [*states, *(name for name in self.others if "hidden" in OTHERS[name])]
        if not linear and draw(st.sampled_from((False, True, False))):
            self.remembered = sorted(draw(st.sets(st.sampled_from(sorted(REMEMBERED)), min_size=1)))
            self.earlier = sorted(draw(st.sets(st.sampled_from(("lag(x)", "lag(x, 3)")))))
            self.earlier += [name for name in self.remembered if name in "pq"]
            self.remembered += ["p"] if "q" in self.remembered and "p" not in self.remembered else []
            self.vectors += [name for name in self.remembered if name == "e"]
            self.vectors += sorted(draw(st.sets(st.sampled_from(EARLIER)))) if self.products else []
        self.written: list[str] = []
        self.compared: list[str] = []

    def of(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def block(self, kinds: str) -> str:
        return f"{self.of(*kinds)}_{self.draw(st.integers(1, 3))}"

    def matrix(self, kinds: str) -> str:
        kind = self.of(*kinds)
        if self.draw(st.integers(0, 7)) < 7:
            return self.block(kind)
        text = re.sub(r"{(\w)}", lambda letter: self.block(letter[1]), self.of(*self.made(kind)))
        self.compared += _BLOCK.findall(text) if "where" in text or "eye" in text else []
        return text

    def made(self, kind: str) -> list[str]:
        """Forms of matrices; of no square ones where none is multiplied in the loop, as one that is compared may be."""
        return [form for form in MADE[kind] if self.products or "{U}" not in form]

    def product(self, depth: int) -> str:
        x = self.of("x", *self.earlier, *(name for name in self.others if "inputs" in OTHERS[name]))
        if not self.products:
            return f"{self.matrix('W')} @ {x}"
        match self.of("vector", "vector", "input", "input's", "bias", "expression", "narrow"):
            case "input":
                return f"{self.matrix('W')} @ {x}"
            case "narrow":
                there, back = self.of("NK", "NK", "MW")
                inner = self.of(*NARROW).format(f"({self.block(there)} @ {self.of(*self.vectors)})")
                return f"{self.block(back)} @ {inner}"
            case "input's":
                operand = f"({self.block('W')} @ {x})"
            case "bias":
                operand = self.block("b")
            case "expression" if depth:
                operand = f"({self.expression(depth - 1)})"
            case _:
                operand = self.of(*self.vectors)
        return f"{self.matrix('UUR')} @ {operand}"

    def term(self, depth: int) -> str:
        """What stands in a sum."""
        forms = "vector product product bias scaled again number complement expression expression sum".split()
        match self.of(*forms):
            case "vector":
                return self.of(*self.vectors)
            case "product":
                return self.kept(f"({self.product(depth)})" if self.draw(st.booleans()) else self.product(depth))
            case "bias":
                return self.block("bk")
            case "scaled":
                numbers = [name for name in self.others if OTHERS[name] == "[]"]
                numbers += [name for name in self.remembered if name == "o"]
                factor = self.of("0.5", "rate", self.block("b"), self.block("k"), *numbers)
                return f"{factor} * {self.of(self.block('b'), f'({self.product(depth)})', self.of(*self.vectors))}"
            case "again" if self.written:
                return f"({self.of(*self.written)})"
            case "number":
                return self.of(*NUMBERS)
            case "complement":
                return f"(1 - {self.of(self.block('b'), self.block('k'), *self.vectors)})"
            case "expression" if depth:
                return self.expression(depth - 1)
            case "sum" if depth:
                return f"({self.sum(depth - 1)})"
        return self.of(*self.vectors)

    def sum(self, depth: int) -> str:
        parts = [self.term(depth)]
        for _ in range(self.draw(st.integers(1, 3))):
            parts += [self.of("+", "+", "-"), self.term(depth)]
        return self.kept(" ".join(parts))

    def derived_and_biases(self) -> list[str]:
        """A sum of a derived operation and, behind it, two terms or more of parameters alone."""
        biases = [self.of("1", "rate", self.block("bk")), self.block("bk")]
        biases += [self.block("bk")] if self.draw(st.booleans()) else []
        behind = f" {self.of('+', '-')} ".join(biases)
        behind = f"({behind})" if self.draw(st.booleans()) else behind
        return [f"{self.of(*DERIVED).format(f'({self.sum(1)})')} {self.of('+', '-')} {behind}"]

    def sum_within_a_sum(self) -> list[str]:
        """A sum, and another of which it is a part that has no name; either may be the first."""
        part = self.sum(1)
        whole = f"{self.term(1)} {self.of('+', '-')} ({part})"
        return [part, whole] if self.draw(st.booleans()) else [whole, part]

    def expression(self, depth: int) -> str:
        if not depth:
            return self.of(*self.vectors)
        match self.of("unary", "unary", "sum", "times", "divided", "most", "where", "product", "units", "units"):
            case "unary":
                return self.kept(self.of(*UNARY).format(f"({self.sum(depth - 1)})"))
            case "sum":
                return f"({self.sum(depth - 1)})"
            case "times":
                return f"({self.term(depth - 1)}) * ({self.term(depth - 1)})"
            case "divided":
                form = self.of("({})", "({})", "({} + 0.13)").format(self.term(depth - 1))
                sign = "%" if form.endswith("+ 0.13)") else "/"
                return f"{form} {sign} (1.5 + sigmoid({self.term(depth - 1)}))"
            case "most":
                return self.of("max({}, {})", "min({}, {})").format(self.term(depth - 1), self.term(depth - 1))
            case "units":
                return self.of_units(depth)
            case "where":
                left, right = self.term(depth - 1), self.sum(depth - 1)
                self.compared += _BLOCK.findall(left + right)
                sign = self.of("<", "<=", ">", ">=")
                return f"where({left} {sign} {right} + 0.01, {self.term(depth - 1)}, 0.9 * ({self.term(depth - 1)}))"
        return f"({self.product(depth - 1)})"

    def of_units(self, depth: int) -> str:
        """What looks across units: of the input alone, of a state, of what is made of them."""
        form, some = self.of(*NORMS, *NUMBERS_OF_UNITS), self.of(*self.vectors)
        inputs = "x" if form in NUMBERS_OF_UNITS and "dot" not in form else f"{self.block('W')} @ x"
        operand = inputs if self.linear else self.of(inputs, self.sum(depth - 1), some, some)
        if form in NORMS:
            return form.format(operand)
        return f"{form.format(operand, state=operand if self.linear else self.vectors[0])} * {some}"

    def pack(self, depth: int) -> str:
        """A value of as many blocks as the parameters `pack_W` and so on have."""
        if not depth or self.draw(st.integers(0, 3)) == 3:
            if not self.products:
                return self.of("pack_W @ x", "pack_W @ x", "pack_b")
            return self.of("pack_W @ x", "pack_b", *(f"pack_{kind} @ {self.of(*self.vectors)}" for kind in "UUR"))
        form = self.of(*OF_BLOCKS)
        one = self.pack(depth - 1) if form.count("{one}") == 1 else self.of("pack_b", "pack_k * pack_b")
        return "(" + form.replace("{}", f"({self.pack(depth - 1)})").replace("{one}", f"({one})") + ")"

    def blocks_apart(self) -> list[list[str]]:
        """An equation with a name for each block, perhaps of one that has a name; and one block by its own name."""
        lines, right = [], self.pack(2)
        if self.draw(st.booleans()):
            lines.append(["both", right])
            right = self.of("both", "layer_norm(both)", "both * mean(both)", "tanh(both) + 0.3 * both")
        names = [f"q{number}" for number in range(BLOCKS)]
        self.vectors += names
        self.written += [f"(0.5 * {names[0]})", *(["pW_1 @ x"] if "pack_W" in right else [])]
        return [*lines, [", ".join(names), right]]

    def kept(self, text: str) -> str:
        self.written.append(text)
        return text


# A state as a * old + b, of an expression between 0 and 1, and two more.
LINEAR = (
    "{gate} * {state} + {sum}",
    "({state} - ({sum})) * {gate}",
    "(1 - {gate}) * {state} + {gate} * ({sum})",
    "{state} / (1.5 + {gate}) - tanh({sum})",
    "where({other} < {gate} + 0.01, {gate} * {state}, {sum})",
    "where({other} > {gate}, {state}, -0.5 * ({state} + {gate})) + sin({sum})",
    "{state} - {gate}",
)


@st.composite
def linear_cells(draw) -> str:
    """The text of a file whose one to three states are linear, each perhaps waiting for others."""
    states = list(STATES[: draw(st.integers(1, 3))])
    writer = _Writer(draw, ["a0"], products=False, linear=True)
    lines = [["a0", "tanh(W_1 @ x + b_1)"]]
    for state in draw(st.permutations(states)):
        gate, other = f"sigmoid({writer.sum(1)})", writer.term(1)
        form = writer.of(*LINEAR)
        if "{other}" in form:
            writer.compared += _BLOCK.findall(gate + other)
        lines.append([f"{state}'", form.format(state=state, gate=gate, other=other, sum=writer.sum(2))])
        writer.vectors += [state, f"{state}'"]
    text = "\n".join(right for _, right in lines[1:])
    idle = [] if _uses(text, "a0") else ["a0"]
    idle += [_used_alone(block) for block in sorted(set(writer.compared))] + _unused(writer.others, text)
    lines[1][1] += "".join(f" + 0.1 * sin({name})" for name in idle)
    forms = ("tanh({0}')", "{0} * {0}'", "0.5 * {0}' + {0}")
    lines.append(["y", " + ".join(writer.of(*forms).format(state) for state in states)])
    return _file(draw, lines, draw(st.permutations(states)), "y", writer.others)


@st.composite
def cells(draw) -> str:
    """The text of a file: one to three states, and up to four equations beside theirs.

    Forms that once were compiled wrongly, and that chance seldom writes, are put beside those in a sixth each.
    """
    if draw(st.integers(0, 11)) == 11:
        return draw(linear_cells())
    states = list(STATES[: draw(st.integers(1, 3))])
    writer = _Writer(draw, states, products=draw(st.integers(0, 3)) < 3)
    narrow = writer.products and draw(st.integers(0, 5)) == 5
    writer.vectors += [NARROW_STATE] if narrow else []
    lines: list[list[str]] = []
    counting = draw(st.sampled_from((False, True, False)))

    def add(right: str) -> None:
        name = f"a{len(lines)}"
        lines.append([name, right])
        writer.vectors.append(name)
        if writer.earlier and draw(st.booleans()):
            writer.vectors.append(f"lag({name})")

    for _ in range(draw(st.integers(0, 4))):
        form = draw(st.sampled_from(("sum", "product", "expression")))
        add({"sum": writer.sum, "product": writer.product, "expression": writer.expression}[form](2))
    if draw(st.integers(0, 3)) == 3:
        lines += writer.blocks_apart()
    rare = {"d": writer.derived_and_biases, "s": writer.sum_within_a_sum, ".": list}
    for right in rare[draw(st.sampled_from("." * 16 + "ddddddssss"))]():
        add(right)
    together = len(states) == BLOCKS and not counting and draw(st.booleans())
    if together:
        used = " - ".join(name for name in writer.vectors if name not in writer.others)
        right = f"tanh({writer.pack(2)} + pack_W @ x + 0.2 * mean({used}))"
        lines.append([", ".join(f"{state}'" for state in states), right])
        writer.vectors += [f"{state}'" for state in states]
    for state in () if together else states:  # bounded, so that a long sequence is no test of overflow
        right = draw(st.sampled_from(BOUNDED)).format(writer.sum(2), state=state)
        if counting and draw(st.booleans()):
            right = f"({right}) * {draw(st.sampled_from(ROOTS if writer.products else ROOTS[:-1]))}"
        lines.append([f"{state}'", right])
        writer.vectors.append(f"{state}'")
    own = (*states, *writer.others, *writer.remembered)
    defined = [name for name in writer.vectors if name not in own and "(" not in name]
    products = [name for name, right in lines if _PRODUCT.fullmatch(right)]
    output = draw(st.sampled_from(["h'", *(products or ["h'"]), *defined]))
    match draw(st.sampled_from(("itself", "itself", "product", "sum", "inputs"))):
        case "product":  # of a product, perhaps: then the scan has that among its outputs
            lines.append(["y", f"{writer.matrix('UR')} @ {output}"])
        case "sum":
            lines.append(["y", f"{writer.sum(1)} + {output}"])
        case "inputs":
            lines.append(["y", f"{writer.block('M')} @ {output}"])
    output = "y" if lines[-1][0] == "y" else output

    # What has no effect is a mistake, and so is a parameter that is only compared; so they are used here.
    text = "\n".join(right for _, right in lines)
    if counting:
        if "sqrt(n" not in text:
            lines[0][1] = f"({lines[0][1]}) * {ROOTS[0]}"
        lines.append([f"{COUNTER}'", f"{COUNTER} - 1"])
        states.append(COUNTER)
    names = [name for line, _ in lines if line != "both" for name in line.split(", ") if not name.endswith("'")]
    idle = [name for name in (*states, *names) if name != output and not _uses(text, name) and name != COUNTER]
    idle += [_used_alone(block) for block in sorted(set(writer.compared))]
    idle += [NARROW_STATE] if narrow and NARROW_STATE not in text else []
    idle += _unused(writer.others, text) + _unremembered(writer.remembered, text)
    idle += [] if " x" in "\n".join(right for name, right in lines if name.endswith("'")) else ["W_1 @ x"]
    if idle and together:
        place = next(n for n, (name, _) in enumerate(lines) if name.startswith(f"{states[0]}',"))
        parts = [f"s{number}" for number in range(BLOCKS)]
        lines[place : place + 1] = [
            [", ".join(parts), lines[place][1]],
            *([f"{state}'", part] for state, part in zip(states, parts, strict=True)),
        ]
    if idle:
        place = next(n for n, (name, _) in enumerate(lines) if name == f"{states[0]}'")
        lines[place][1] += "".join(f" + 0.1 * sin({name})" for name in idle)
    for name in writer.remembered:
        x = writer.of("x", *(other for other in writer.remembered if other in "pq"))
        lines.append([f"{name}'", REMEMBERED[name].format(x=x)])
    if narrow:
        lines.append(["v'", f"0.5 * v + tanh({writer.block('N')} @ {states[0]}')"])
    states += [*writer.remembered, *(["v"] if narrow else [])]
    return _file(draw, lines, draw(st.permutations(states)), output, writer.others)


# Of the counter before the step, and after it: both are no number at padding.
ROOTS = ("(0.4 * sqrt(n))", "(0.5 + 0.2 * sqrt(n))", "(b_1 * sqrt(n' + 0.5))", "(U_1 @ (sqrt(n' + 0.5) * h))")


def _uses(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){name}(?![\w'])", text) is not None


def _unused(others: list[str], text: str) -> list[str]:
    """Terms for what comes in beside x and nothing uses."""
    return [f"W_1 @ {name}" if "inputs" in OTHERS[name] else name for name in others if not _uses(text, name)]


def _unremembered(states: list[str], text: str) -> list[str]:
    """Terms for the states that only remember and that nothing uses."""
    idle = [name for name in states if not _uses(text, name) and not (name == "p" and "q" in states)]
    return [f"W_1 @ {name}" if name in "pq" else name for name in idle]


def _used_alone(block: str) -> str:
    if block[0] in "NK":
        return f"K_1 @ ({block} @ h)" if block[0] == "N" else f"{block} @ (N_1 @ h)"
    return block + {"W": " @ x", "U": " @ h", "R": " @ h", "M": ".T @ x"}.get(block[0], "")


def _file(draw: Callable, lines: list[list[str]], states: list[str], output: str, others: list[str]) -> str:
    """The text: blocks of one kind are one parameter, or several, in any order, and some are not trained. In one of
    eight x is as wide as the states, and used without a matrix. In one of six all that is as wide as the states has
    another width than the layer. others: what comes in beside x.
    """
    shapes = {name: OTHERS[name] for name in others}
    if draw(st.integers(0, 7)) == 7:
        shapes["x"] = '["hidden"]'
        narrow = (f"{COUNTER}'", "o'", "v'")
        lines[-1][1] += " + 0.2 * x" if lines[-1][0] not in narrow and "," not in lines[-1][0] else ""
    text = "\n".join(right for _, right in lines)
    apart = not re.search(r"\b(R_\d|pack_R|pR_1)\b", text) and not any("hidden" in shape for shape in shapes.values())
    apart = apart and draw(st.integers(0, 5)) == 5
    if apart and draw(st.booleans()) and not (output == "y" and "M_" in lines[-1][1]):
        lines.append(["z", f"Z @ {output}"])
        output = "z"

    def shaped(shape: str) -> str:
        return shape.replace("hidden", "rank") if apart else shape

    step = "\n".join(f"{name} = {right}" for name, right in lines)
    tables = ", ".join(f"{name} = {{ shape = {shaped(WIDTHS.get(name, WIDTHS['e']))} }}" for name in states)
    listed = f"{{ {tables} }}" if apart or not WIDTHS.keys().isdisjoint(states) else json.dumps(states)
    found = ['name = "random_cell"', f"states = {listed}"]
    known = [name for line, _ in lines if line != "both" for name in line.split(", ")]
    more = [name for name in known if name not in (output, "o'")] if draw(st.integers(0, 5)) == 5 else []
    outputs = [output, draw(st.sampled_from(more))] if more else output
    found += [f"output = {json.dumps(outputs)}"]
    found += [RANK] if apart or "N_" in step else []
    inputs = ", ".join(f"{name} = {{ shape = {shape} }}" for name, shape in shapes.items())
    found += [f"inputs = {{ {inputs} }}"] if inputs else []
    found += ["constants = { rate = 0.75 }"] if "rate" in step else []
    found += [f'step = """\n{step}\n"""', "[parameters]"]
    for kind, shape in SHAPES.items():
        blocks = sorted({block for block in _BLOCK.findall(step) if block[0] == kind})
        if not blocks:
            continue
        blocks = draw(st.permutations(blocks))
        cut = draw(st.integers(0, len(blocks)))
        heads = ", heads = true" if kind == "R" else ""
        for number, group in enumerate(group for group in (blocks[cut:], blocks[:cut]) if group):
            trained = ", trained = false" if draw(st.integers(0, 9)) == 9 else ""
            found.append(
                f"stack_{kind}{number} = {{ shape = {shaped(shape)}, blocks = {json.dumps(group)}{heads}{trained} }}"
            )
    for kind in "WURbk":
        if re.search(rf"\b(pack_{kind}|p{kind}_1)\b", step):
            heads = ", heads = true" if kind == "R" else ""
            shape = shaped(SHAPES[kind])
            found.append(f'pack_{kind} = {{ shape = {shape}, blocks = ["p{kind}_1", "p{kind}_2"]{heads} }}')
    found += ['last = { shape = ["hidden", "rank"], blocks = ["Z"] }'] if output == "z" else []
    seldom = 1 if apart or "v" in states else 3
    if draw(st.integers(0, seldom)) == seldom:
        recurrent = "U_" in step or "pack_U" in step or "v" in states
        names = st.sampled_from(sorted(WRAPPERS) if recurrent else ("layer_norm", "zoneout", "clip"))
        some = st.lists(names, min_size=1, max_size=3).filter(lambda names: names.count("clip") < 2)
        found.append(f"# with {', '.join(draw(some))}")
    found += ["# save states"] if draw(st.integers(0, 2)) == 2 else []
    return "\n".join(found) + "\n"


@dataclass(frozen=True)
class Call:
    """Sizes and options of a layer, and the type that it runs in. width: of a head. lengths: if they differ. resets:
    of each element of the batch the steps at which another sequence begins, if there are any. save: "every N", "" for
    what the class was compiled to keep.
    """

    time: int = 3
    batch: int = 2
    inputs: int = 2
    width: int = 3
    heads: int = 1
    num_layers: int = 1
    bidirectional: bool = False
    reverse: bool = False
    proj_size: int = 0
    rank: int = 0
    lengths: tuple[int, ...] = ()
    resets: tuple[tuple[int, ...], ...] = ()
    dtype: str = "float64"
    save: str = ""

    @property
    def hidden(self) -> int:
        return self.width * self.heads

    @property
    def options(self) -> dict:
        """The arguments of a layer's class."""
        options = asdict(self)
        keys = ["num_layers", "bidirectional", "reverse", "proj_size", "heads", *(["rank"] if self.rank else [])]
        keys += ["save"] if self.save else []
        return {key: options[key] for key in keys}


@st.composite
def calls(draw, text: str) -> Call:
    """A call of a layer of the cell; one in two with sequences of different lengths, one in two with resets."""
    time, batch = draw(st.sampled_from((3, 2, 5, 1))), draw(st.sampled_from((2, 3, 1, 9)))
    heads = draw(st.integers(1, 3)) if "heads" in text else 1
    width = draw(st.sampled_from((3, 2, 1, 5, 17)))
    lengths: tuple[int, ...] = ()
    if batch > 1 and time > 1 and draw(st.booleans()):
        lengths = tuple(draw(st.permutations([time, 1, *(draw(st.integers(1, time)) for _ in range(batch - 2))])))
    resets: tuple[tuple[int, ...], ...] = ()
    if draw(st.booleans()):
        steps = [st.sets(st.integers(0, length - 1)) for length in lengths or [time] * batch]
        resets = tuple(tuple(sorted(draw(some))) for some in steps)
    bidirectional = draw(st.sampled_from((False, True, False, False)))
    inputs, num_layers = draw(st.sampled_from((2, 1, 4))), draw(st.sampled_from((1, 1, 1, 1, 2)))
    proj_size = draw(st.integers(1, width * heads - 1)) if width * heads > 1 and draw(st.integers(0, 6)) == 6 else 0
    if AS_WIDE in text:
        several = bidirectional or proj_size or "output = [" in text  # what a second layer would get is not as wide
        inputs, num_layers = width * heads, 1 if several else num_layers
    elif OTHERS["u"] in text.partition("step")[0] or "lag(x" in text:  # in all layers, and with it an x of one width
        num_layers = 1
    return Call(
        time=time,
        batch=batch,
        inputs=inputs,
        width=width,
        heads=heads,
        num_layers=num_layers,
        bidirectional=bidirectional,
        reverse=not bidirectional and draw(st.booleans()),
        proj_size=proj_size,
        rank=draw(st.sampled_from((2, 1, 5, 19))) if RANK in text else 0,
        lengths=lengths,
        resets=resets,
        dtype=draw(st.sampled_from(("float64", "float64", "float32"))),
        save=draw(st.sampled_from(("", "", "every", "every 1", "every 2"))),
    )


@dataclass(frozen=True)
class Trial:
    """The text of a cell, and the module that was made of it."""

    text: str
    module: ModuleType

    @cached_property
    def layer_class(self) -> type:
        own = [v for v in vars(self.module).values() if isinstance(v, type) and v.__module__ == self.module.__name__]
        (found,) = own
        return found

    @cached_property
    def described(self) -> Program:
        (cell,) = describe(Source("cell.toml", self.text), wrappers_of(self.text), save_of(self.text)).cells
        (program,) = programs_of([cell], "wrap" if cell.wrappers else "infer")
        return program

    @property
    def makes_again(self) -> bool:
        """Whether its class keeps states alone."""
        return bool(save_of(self.text))

    def schedules(self, call: Call) -> list[str]:
        """What this process can run: the CPU path, by native code if there is some, or every schedule where kernels are
        interpreted; and chunks of two steps, where there are several.
        """
        forward = getattr(self.module, f"{self.layer_class.cell.name}_scan").forward
        found = list(forward.kernels)
        if not interpreting():
            found = ["native" if forward.function(getattr(torch, call.dtype)) else "torch"]
        return [*found, *chunks(call)]


CHUNKS = "chunked 2 1"


def chunks(call: Call) -> list[str]:
    """The schedule of chunks, where there are several."""
    return [CHUNKS] if call.time > 3 else []


@contextmanager
def in_chunks(most_work: float = math.inf) -> Iterator[None]:
    """Chunks are tried whether a cell forgets or not, and repaired as long as it is no more work than this, in passes;
    then they run one by one.
    """
    tried = mock.patch.object(chunked, "_worth_while", lambda _, layout, fixed: layout)
    with tried, mock.patch.object(agreement, "most_work", return_value=most_work):
        yield


@contextmanager
def in_parts() -> Iterator[None]:
    """What a backward pass makes again, it makes for one step at a time."""
    with mock.patch.object(node, "AT_ONCE", 1), mock.patch.object(again, "AT_ONCE", 1):
        yield


class Wrong(AssertionError):
    """A layer has another answer than the judge. path: what was run. name: of the output or gradient."""

    def __init__(self, path: str, name: str, error: float):
        super().__init__(f"{path}: {name} is off by {error:.1e}")
        self.path, self.name = path, name


def check(trial: Trial, call: Call) -> list[str]:
    """What was run: a schedule, or "torch" or "native" for the CPU path, and "reference" for the layer's own.

    Raises Wrong unless every output and every gradient is the judge's, in float64, to what rounding may make of it.
    """
    dtype = getattr(torch, call.dtype)
    torch.manual_seed(0)
    cell = trial.layer_class.cell
    options = call.options | {one.rate: RATE for one in trial.described.drawn}
    exact = trial.layer_class(call.inputs, call.hidden, dtype=dtype, **options).double()
    widths = {"": (), "inputs": (call.inputs,), "hidden": (call.hidden,)}
    shapes = {name: (call.time, call.batch, *widths[of]) for name, of in cell.inputs.items()}
    kinds = {name: dtype if of else _wide(dtype) for name, of in cell.inputs.items()}
    xs = {name: torch.randn(shape).to(kinds[name]).double() for name, shape in shapes.items()}
    first = _parts(exact.initial_state(call.batch))
    first = [torch.randn(state.shape).to(dtype).double() for state in first]
    if COUNTER in cell.states:
        steps = torch.tensor(call.lengths or [call.time] * call.batch).double()
        counter = first[cell.states.index(COUNTER)]
        counter.copy_(steps[:, None].expand_as(counter))
    begins = _beginnings(exact, call, first)
    judge = _judged(trial, exact, call)
    want = _answer(exact, judge, xs, first, begins)

    run = []
    for path in [*trial.schedules(call), "reference"]:
        kind = torch.float64 if path == "reference" else dtype
        schedule = path if path in (*cell.schedules, CHUNKS) else "auto"
        layer = trial.layer_class(call.inputs, call.hidden, dtype=kind, schedule=schedule, **options)
        layer.load_state_dict(exact.state_dict())
        method = layer.reference if path == "reference" else layer
        rows = {name: x.to(kind if cell.inputs[name] else _wide(kind)) for name, x in xs.items()}
        own = (rows, *([state.to(kind) for state in states] for states in (first, begins)))
        try:
            how = _without_steps() if path == "native" else in_chunks() if path == CHUNKS else nullcontext()
            with how, in_parts() if trial.makes_again and call.time % 2 else nullcontext():
                got = _answer(layer, _called(method, call), *own)
        except NotPossible as reason:
            square = [
                weight
                for weight in cell.weights
                if len(weight.shape) == 2 and {"inputs", "earlier"}.isdisjoint(weight.shape)
            ]
            dense = any(not weight.heads for weight in square)
            mixed = call.heads > 1 and dense and "heads" in str(reason)
            by_heads = schedule in ("resident", "cooperative")
            if not (by_heads and (mixed or "do not fit the registers" in str(reason))):
                raise
            continue
        for name, error in _errors(got, want, 1e-8 if kind == torch.float64 else 1e-3, torch.finfo(kind).eps):
            unsteady = _unsteadiness(exact, judge, xs, first, begins, torch.finfo(kind).eps)[name]
            plain = _answer(layer, _judged(trial, layer, call), *own)[name]  # what the judge has in that type
            if not error <= 30 * max(unsteady, float((plain - want[name]).norm())):
                raise Wrong(path, name, error)
        run.append(path)
    return run


@contextmanager
def _without_steps() -> Iterator[None]:
    """Native code is not told from the torch steps by what it gives."""

    def steps(*args: object) -> None:
        raise AssertionError("torch runs the steps")

    kept, sweep.torch_steps = sweep.torch_steps, steps
    try:
        yield
    finally:
        sweep.torch_steps = kept


def _beginnings(layer: torch.nn.Module, call: Call, first: list[Tensor]) -> list[Tensor]:
    """What resets return to, none without them. The layer's own zeros where that is all that there can be."""
    cell = layer.cell
    if not call.resets or (call.proj_size and cell.narrow):
        return []
    begins = [torch.randn(state.shape).to(getattr(torch, call.dtype)).double() for state in first]
    if COUNTER in cell.states:
        begins[cell.states.index(COUNTER)].fill_(call.time)
    return begins


def _wide(dtype: torch.dtype) -> torch.dtype:
    """The type of numbers among the inputs."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _unsteadiness(
    layer: torch.nn.Module, judge: "_Method", xs: _Inputs, states: list[Tensor], begins: list[Tensor], eps: float
) -> dict:
    """By name how far the judge's own answers lie apart when its operands are rounded in other ways.

    A cell may compare numbers that are equal but for rounding, or amplify it over the steps.
    """
    operands = [*xs.values(), *states, *begins, *layer.parameters(), *layer.buffers()]
    generator = torch.Generator().manual_seed(1)
    exact = [operand.detach().clone() for operand in operands]
    answers = []
    for _ in range(4):
        with torch.no_grad():
            for operand, value in zip(operands, exact, strict=True):
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
                operand.copy_(value * (1 + eps * noise))
        answers.append(_answer(layer, judge, xs, states, begins))
    with torch.no_grad():
        for operand, value in zip(operands, exact, strict=True):
            operand.copy_(value)
    return {name: max(float((other[name] - answers[0][name]).norm()) for other in answers[1:]) for name in answers[0]}


_Method = Callable[[_Inputs, list[Tensor], list[Tensor]], tuple[Tensor, list[Tensor]]]


def _judged(trial: Trial, layer: torch.nn.Module, call: Call) -> _Method:
    def method(xs: _Inputs, states: list[Tensor], begins: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        begins = begins or [torch.zeros_like(state) for state in states]
        masks = reference.Masks(trial.described.drawn, RATE, call.lengths)
        sides = ("", "_reverse") if call.bidirectional else ("",)
        places = [f"_l{number}{side}" for number in range(call.num_layers) for side in sides]
        parameters = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        like = xs["x"].new_empty(call.batch, call.hidden)
        y, last = reference.layers(
            trial.described.cell,
            xs["x"],
            dict(zip(layer.cell.states, states, strict=True)),
            masks.on(parameters, places),
            bidirectional=call.bidirectional,
            reverse=call.reverse,
            lengths=call.lengths,
            resets=call.resets,
            begins=dict(zip(layer.cell.states, begins, strict=True)),
            others={name: rows for name, rows in xs.items() if name != "x"},
            drawn=lambda _, features: masks.over(call.time, like, features, layer.sizes),
        )
        return y, list(last.values())

    return method


def _called(method: Callable, call: Call) -> _Method:
    def called(xs: _Inputs, states: list[Tensor], begins: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        def packed(rows: Tensor) -> Tensor | PackedSequence:
            if not call.lengths:
                return rows
            return pack_padded_sequence(rows, torch.tensor(call.lengths), enforce_sorted=False)

        options: dict = {"resets": packed(flags)} if call.resets else {}
        options |= {"reset_to": _state(begins)} if begins else {}
        x, *others = map(packed, xs.values())
        options |= dict(zip(list(xs)[1:], others, strict=True))
        y, last = method(x, _state(states), **options)
        return (pad_packed_sequence(y)[0] if call.lengths else y), _parts(last)

    flags = torch.zeros(call.time, call.batch, dtype=torch.bool)
    for element, steps in enumerate(call.resets):
        flags[list(steps), element] = True

    return called


def _answer(
    layer: torch.nn.Module, method: _Method, xs: _Inputs, states: list[Tensor], begins: list[Tensor]
) -> dict[str, Tensor]:
    """Every output and every gradient by name."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (*xs.values(), *states, *begins)]
    own, others = leaves[: len(xs)], leaves[len(xs) :]
    torch.manual_seed(1)  # by which all answers have what is drawn in common
    y, last = method(dict(zip(xs, own, strict=True)), others[: len(states)], others[len(states) :])
    found = dict(zip(("y", *(f"last {name}" for name in layer.cell.states)), (y, *last), strict=True))
    loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in found.values())
    names = [*xs, *(f"initial {name}" for name in layer.cell.states)]
    names += [f"first {name}" for name in layer.cell.states] if begins else []
    named = dict(zip(names, leaves, strict=True)) | dict(layer.named_parameters())
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    found = {name: tensor.detach().double() for name, tensor in found.items()}
    return found | {f"gradient of {name}": g.double() for name, g in zip(named, gradients, strict=True)}


def _errors(
    got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float, eps: float
) -> Iterator[tuple[str, float]]:
    """The names of what is further off than the tolerance, relative to its size, and by how much.

    A gradient whose parts cancel, as that of (b + h) - (b + h), is what rounding leaves of them: `eps` of the largest.
    """
    gradients = max(float(tensor.norm()) for name, tensor in want.items() if name.startswith("gradient"))
    for name, tensor in want.items():
        if got[name].shape != tensor.shape:
            yield name, math.inf
            continue
        least = max(1e-6, eps / tolerance) * gradients if name.startswith("gradient") else 1e-6
        error = float((got[name] - tensor).norm())
        if not error <= tolerance * max(float(tensor.norm()), least):
            yield name, error


def _state(parts: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(parts)


def _parts(state: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


def found_cases() -> Iterator[tuple[str, str, Call]]:
    """What the fuzzer has found so far: names, cells, and the calls in the first lines of their files."""
    for file in sorted(FOUND.glob("*.toml")):
        text = file.read_text()
        yield file.stem, text, call_of(text)


def call_of(text: str) -> Call:
    """The call that a file of `found/` begins with."""
    options = json.loads(text.splitlines()[0].removeprefix("# "))
    resets = tuple(map(tuple, options.get("resets", ())))
    return Call(**options | {"lengths": tuple(options["lengths"]), "resets": resets})


def kept(text: str, call: Call) -> str:
    """The text of a file of `found/`."""
    return f"# {json.dumps(asdict(call))}\n{text}"
