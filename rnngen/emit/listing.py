"""A program as something to look at: text that reads like the paper, a mermaid flowchart, or JSON.

All three show the program at any stage, however far the passes have come, and depend on nothing else.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rnngen.chain import Across, Atom, Chain, Chained
from rnngen.emit.statements import number
from rnngen.ir import LEAVES, CellGraph, Differentiated, Program, Value, blocks_of
from rnngen.ops import COMPARISONS, OPS

__all__ = ["as_json", "as_mermaid", "as_text"]

FORMAT = 1  # of the JSON; a key may be added under the same number, none changes its meaning

_TITLES = {
    "cell": "one step",
    "once": "at each call, from the parameters alone",
    "before": "all steps at once",
    "scan": "step by step",
    "after": "all steps at once",
    "again": "some steps at once, before the adjoint runs over them",
    "adjoint": "step by step, the other way in time",
    "gradients": "all steps at once; sum(...) is over every step and row",
}
_SOURCES = {
    "stream": "the scan's input {}",
    "again": "the scan's input {}, made once more",
    "output": "the scan's output {}",
    "previous": "the scan's output {}, one step earlier",
    "saved": "the scan's output {}",
    "gradient": "the gradient of {}",
    "made": "{}, made once more for some steps at once",
}
_WIDEST = 60  # columns of an equation up to which shapes are lined up behind it
_LEAST_COLUMNS = 24

_COMPARISON, _SUM, _PRODUCT, _UNARY, _ATOM = range(5)
_SIGNS = {
    "add": ("+", _SUM),
    "sub": ("-", _SUM),
    "mul": ("*", _PRODUCT),
    "div": ("/", _PRODUCT),
    "mod": ("%", _PRODUCT),
    "matmul": ("@", _PRODUCT),
    "compose": ("@", _PRODUCT),
} | {name: (OPS[name].sign, _COMPARISON) for name in COMPARISONS}
_NUMERAL = re.compile(r"-?[0-9.]")


@dataclass(frozen=True, slots=True)
class _Line:
    """A value with a line of its own: the text behind "=", and the values that the text names."""

    value: Value
    text: str
    uses: tuple[str, ...]


def as_text(program: Program) -> str:
    """The graphs one after another: what comes in, the equations, what goes out; shapes at the right."""
    shaped = _has_shapes(program)
    parts = []
    for name, graph in _filled(program).items():
        notes = _sources(program) if name in ("again", "adjoint", "gradients") else {}
        parts.append("\n".join([f"{name}: {_TITLES[name]}", *_section(graph, notes, shaped)]))
    for name, chain in _chains(program).items():
        parts.append("\n".join([f"{name}, in stages", *_links(chain)]))
    return "\n\n".join(parts) + "\n"


def as_mermaid(programs: Sequence[Program]) -> str:
    """One flowchart, with a box for each graph of each program. Dotted arrows lead to the next step."""
    lines = ["flowchart TD"]
    for position, program in enumerate(programs):
        for name, graph in _filled(program).items():
            title = _label(f"{program.cell.name}, {name}: {_TITLES[name]}")
            lines += [f"  subgraph {name}_{position}[{title}]"]
            lines += [f"    {line}" for line in _flow(graph, f"{name}_{position}")]
            lines += ["  end"]
    return "\n".join(lines) + "\n"


def as_json(programs: Sequence[Program], stage: str) -> str:
    """Everything in the programs after a stage, as one JSON object."""
    record = {"format": FORMAT, "after": stage, "cells": [_program_record(program) for program in programs]}
    return json.dumps(record, indent=2) + "\n"


def _filled(program: Program) -> dict[str, CellGraph]:
    """The graphs that have anything in them: most cells need nothing once, or nothing after the scan."""
    return {name: graph for name, graph in program.graphs().items() if graph.values}


def _chains(program: Program) -> dict[str, Chain]:
    return {"scan": program.forward, "adjoint": program.backward} if isinstance(program, Chained) else {}


# Text.


def _sources(program: Program) -> dict[str, str]:
    """Where the inputs of the adjoint and of the gradients come from, as far as it is settled."""
    if not isinstance(program, Differentiated):
        return {}
    found = {binding.leaf: _SOURCES[binding.kind].format(binding.name) for binding in program.bindings}
    found |= {label: "the adjoint's output" for label, _ in program.adjoint.outputs}
    return found | {state.name: "the adjoint's last state" for state in program.adjoint.states}


def _section(graph: CellGraph, sources: dict[str, str], shaped: bool) -> Iterator[str]:
    """The lines of a graph. sources: notes on its inputs."""
    rows: list[tuple[str, str, str]] = []
    blocks = _named_blocks(graph)
    for kind in ("input", "mask", "state", "parameter", "constant"):
        for leaf in graph.leaves(kind):
            if kind == "constant":
                if not _is_numeral(leaf):
                    rows.append((f"constant   {leaf.name} = {number(leaf.number)}", "", ""))
                continue
            parts = f" = [{', '.join(blocks[leaf.name])}]" if leaf.name in blocks else ""
            note = sources.get(leaf.name, "") if kind == "input" else ""
            word = "untrained" if leaf.name in graph.untrained else kind
            rows.append((f"{word:<9}  {leaf.name}{parts}", _shape_text(leaf, shaped), note))
    rows += ((f"{line.value.name} = {line.text}", _shape_text(line.value, shaped), "") for line in _lines(graph))
    rows += (
        (f"next       {state.name} = {state.update}", "", "")
        for state in graph.states
        if state.update != f"{state.name}'"  # else its name says so
    )
    by_name = graph.by_name()
    for label, value in graph.outputs:
        text = f"output     {label}" + (f" = {value}" if value != label else "")
        rows.append((text, _shape_text(by_name[value], shaped), ""))
    width = max((len(text) for text, _, _ in rows if len(text) <= _WIDEST), default=0)
    width = max(width, _LEAST_COLUMNS)
    shapes = max((len(shape) for _, shape, note in rows if note), default=0)
    for text, shape, note in rows:
        note = f"  from {note}" if note else ""
        yield f"  {text:<{width}}  {shape:<{shapes if note else 0}}{note}".rstrip()


def _links(chain: Chain) -> Iterator[str]:
    """The lines of a chain: each product, and of each stage what passes in and out."""
    for place, link in enumerate(chain.links):
        for across in link.across:
            yield f"  across     {across.name} = {_across_text(across, _atoms_text(chain, across.operand))}"
        if link.stage.values:
            yield f"  stage {place}    takes {_atoms_text(chain, link.stage.takes)}"
            yield f"             gives {_atoms_text(chain, link.stage.gives)}"


def _across_text(across: Across, operand: str) -> str:
    if across.matrices is None:
        return f"{across.op}({operand})"
    of = across.matrices
    matrices = f"{of.parameter}[{of.start}:{of.start + of.count}]"
    return f"{matrices}{'.T' if across.op == 'matmul_t' else ''} @ {operand}"


def _atoms_text(chain: Chain, atoms: Sequence[Atom]) -> str:
    """Atoms, those of a whole value by its name."""
    found: dict[str, list[int]] = {}
    for atom in atoms:
        found.setdefault(atom.value, []).append(atom.block)
    whole = {name for name, blocks in found.items() if sorted(blocks) == list(range(chain.blocks(name)))}
    parts = [name if name in whole else ", ".join(f"{name}[{n}]" for n in blocks) for name, blocks in found.items()]
    return ", ".join(parts)


def _shape_text(value: Value, shaped: bool) -> str:
    if not shaped:
        return ""
    return f"({', '.join(map(str, value.shape))})" if value.shape else "scalar"


def _has_shapes(program: Program) -> bool:
    """Whether the shapes have been inferred; before that every value seems to be a scalar."""
    return any(value.shape for graph in program.graphs().values() for value in graph.values)


# Equations.


def _lines(graph: CellGraph) -> Iterator[_Line]:
    """The values that get a line: those with a name of the user's, used more than once, or wanted outside."""
    users = graph.users()
    roots = set(graph.roots())
    packs = _named_blocks(graph)
    texts: dict[str, tuple[str, int]] = {}
    uses: dict[str, tuple[str, ...]] = {}
    for value in graph.values:
        texts[value.name], uses[value.name] = (value.name, _ATOM), (value.name,)
        if value.op == "constant":
            if _is_numeral(value):
                uses[value.name] = ()
                texts[value.name] = number(value.number), _ATOM if value.number >= 0 else _UNARY
            continue
        if value.op in LEAVES or (value.op == "pick" and value.name in packs.get(value.operands[0], ())):
            if value.op == "pick":
                uses[value.name] = uses[value.operands[0]]
            continue
        text, level = _expression(value, texts)
        named = tuple(dict.fromkeys(name for operand in value.operands for name in uses[operand]))
        count = sum(user.operands.count(value.name) for user in users[value.name])
        made_up = "." in value.name
        if made_up and value.name not in roots and (value.op == "pick" or count == 1):
            texts[value.name], uses[value.name] = (text, level), named
        else:
            yield _Line(value, text, named)


def _named_blocks(graph: CellGraph) -> dict[str, tuple[str, ...]]:
    """The names of the blocks of each leaf that is a pack, where all have names: W_i, W_f, ... of weight_ih.

    Then the leaf's line lists them, and none needs a line of its own.
    """
    definitions = graph.by_name()
    found: dict[str, dict[int, str]] = {}
    for value in graph.leaves("pick"):
        pack = definitions[value.operands[0]]
        if pack.op in LEAVES and "." not in value.name:
            found.setdefault(pack.name, {}).setdefault(value.block, value.name)
    complete = {}
    for name, blocks in found.items():
        shape = definitions[name].shape
        count = blocks_of(shape) if shape else len(blocks)  # before shapes are known all blocks are there
        if set(blocks) == set(range(count)):
            complete[name] = tuple(blocks[place] for place in sorted(blocks))
    return complete


def _expression(value: Value, texts: dict[str, tuple[str, int]]) -> tuple[str, int]:
    operands = [texts[operand] for operand in value.operands]
    plain = [text for text, _ in operands]
    match value.op:
        case "neg":
            return f"-{_within(operands[0], _UNARY)}", _UNARY
        case "alias":
            return operands[0]
        case "pick":
            return f"{_within(operands[0], _ATOM)}[{value.block}]", _ATOM
        case "slice":
            start, stop = value.bounds
            return f"{_within(operands[0], _ATOM)}[{start}:{stop}]", _ATOM
        case "stack":
            return f"[{', '.join(plain)}]", _ATOM
        case "matmul_t":
            return f"{_within(operands[0], _ATOM)}.T @ {_within(operands[1], _PRODUCT + 1)}", _PRODUCT
        case "transpose":
            return f"{_within(operands[0], _ATOM)}.T", _ATOM
        case "outer":
            return f"sum({_within(operands[0], _PRODUCT)} @ {_within(operands[1], _ATOM)}.T)", _ATOM
        case "total":
            return f"sum({plain[0]})", _ATOM
        case op if op in _SIGNS:
            sign, level = _SIGNS[op]
            return f"{_within(operands[0], level)} {sign} {_within(operands[1], level + 1)}", level
        case _:
            return f"{value.op}({', '.join(plain)})", _ATOM


def _within(operand: tuple[str, int], level: int) -> str:
    text, its_level = operand
    return text if its_level >= level else f"({text})"


def _is_numeral(value: Value) -> bool:
    """Whether a constant is called by its number; else the user has named it."""
    return _NUMERAL.match(value.name) is not None


# Mermaid.

_LEAF_FORMS = {"input": "[/{}/]", "mask": "[/{}/]", "state": "([{}])", "parameter": "[({})]"}


def _flow(graph: CellGraph, prefix: str) -> Iterator[str]:
    ids: dict[str, str] = {}

    def new(name: str) -> str:
        return ids.setdefault(name, f"{prefix}_{len(ids)}")

    for kind, form in _LEAF_FORMS.items():
        for leaf in graph.leaves(kind):
            yield new(leaf.name) + form.format(_label(leaf.name))
    for line in _lines(graph):
        yield f"{new(line.value.name)}[{_label(f'{line.value.name} = {line.text}')}]"
        for name in line.uses:
            if name in ids:  # a constant of the user's is no node
                yield f"{ids[name]} --> {ids[line.value.name]}"
    for place, (label, value) in enumerate(graph.outputs):
        yield f"{prefix}_out_{place}[\\{_label(label)}\\]"
        if value in ids:
            yield f"{ids[value]} --> {prefix}_out_{place}"
    for state in graph.states:
        if state.update in ids:
            yield f"{ids[state.update]} -. next .-> {ids[state.name]}"


def _label(text: str) -> str:
    """Text in a box: mermaid reads entities in it, and HTML."""
    for sign, entity in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;")):
        text = text.replace(sign, entity)
    return f'"{text}"'


# JSON.


def _program_record(program: Program) -> dict[str, Any]:
    return {
        "name": program.cell.name,
        "equations": [
            {"targets": list(equation.targets), "text": equation.text, "place": equation.place}
            for equation in program.equations
        ],
        "parameters": [
            {
                "name": parameter.name,
                "shape": list(parameter.shape),
                "blocks": list(parameter.blocks),
                "init": list(parameter.init),
                "heads": parameter.heads,
                "trained": parameter.trained,
            }
            for parameter in program.parameters
        ],
        "graphs": {name: _graph_record(graph) for name, graph in program.graphs().items()},
        "bindings": [
            {"leaf": binding.leaf, "kind": binding.kind, "name": binding.name}
            for binding in (program.bindings if isinstance(program, Differentiated) else ())
        ],
        "stream_gradients": list(program.stream_gradients) if isinstance(program, Differentiated) else [],
        "chains": {name: _chain_record(chain) for name, chain in _chains(program).items()},
    }


def _chain_record(chain: Chain) -> list[dict[str, Any]]:
    return [
        {
            "across": [{**asdict(across), "operand": list(across.operand)} for across in link.across],
            "values": [value.name for value in link.stage.values],
            "takes": list(link.stage.takes),
            "gives": list(link.stage.gives),
        }
        for link in chain.links
    ]


def _graph_record(graph: CellGraph) -> dict[str, Any]:
    return {
        "states": [{"name": state.name, "update": state.update} for state in graph.states],
        "outputs": [{"label": label, "value": value} for label, value in graph.outputs],
        "heads": sorted(graph.heads),
        "values": [
            {
                "name": value.name,
                "op": value.op,
                "operands": list(value.operands),
                "shape": list(value.shape),
                "attribute": list(value.attribute) if isinstance(value.attribute, tuple) else value.attribute,
                "line": value.origin.line if value.origin else None,
            }
            for value in graph.values
        ],
    }
