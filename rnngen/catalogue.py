"""The library as a person looks through it: what each cell is, what it costs, and which schedules run it.

What a cell says of itself stands in its file. Everything else follows from its scan, as `unfold` leaves it: neither
gradients nor kernels are needed for that, so that all cells of the library are looked at in a fraction of a second.
"""

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rnngen.cell import Cell
from rnngen.compile import programs_of
from rnngen.description import describe
from rnngen.emit.listing import as_mermaid
from rnngen.emit.render import render
from rnngen.ir import Parameter, Shape, Split
from rnngen.library import library
from rnngen.passes.cut import chain
from rnngen.runtime.schedules import possible

WIDTH = 100  # of what is printed on a terminal
LEGEND = "I: inputs, H: units, others: sizes; +n: states of earlier steps."
_LETTERS = {"hidden": "H", "inputs": "I"}
WIDE_AS: Mapping[Shape, str] = {(): "a number", ("hidden",): "as wide as the states", ("inputs",): "as wide as x"}


def _wide_as(shape: Shape) -> str:
    return WIDE_AS.get(shape) or f"as wide as {shape[0]}"


@dataclass(frozen=True)
class Entry:
    """A cell of the library.

    source: its file. states: what a layer of it returns, by name, with the shape of each. products: how many times in a
    row matrices are applied within the recurrence, each time to what became of the time before. linear: whether each
    new state is proved to be a * old + b. schedules: those that its kernels have.
    """

    cell: Cell
    source: str
    states: Mapping[str, Shape]
    products: int
    linear: bool
    schedules: tuple[str, ...]

    @property
    def numbers(self) -> str:
        """How many parameters a unit has, for I inputs and H units; then how many all units share."""
        units: Counter[tuple[str, ...]] = Counter()
        shared: Counter[tuple[str, ...]] = Counter()
        for parameter in (parameter for parameter in self.cell.parameters if parameter.trained):
            first = sorted(parameter.shape, key=lambda dimension: (dimension != "inputs", dimension))
            dimensions = [_LETTERS.get(dimension, dimension) for dimension in first]
            counted = units if "H" in dimensions else shared
            if "H" in dimensions:
                dimensions.remove("H")
            dimensions += ["heads"] if parameter.heads else []
            counted[tuple(dimensions)] += len(parameter.blocks)
        common = _sum(shared)
        return _sum(units) + (f", {common} shared" if common else "")

    @property
    def kind(self) -> str:
        """What the recurrence is."""
        products = f"{self.products} product{'s' if self.products > 1 else ''} in a row"
        return ", ".join([products if self.products else "no product", *(["linear"] if self.linear else [])])

    @property
    def step(self) -> str:
        """The equations, as its file has them."""
        return str(self.cell.places.table["step"]).strip("\n")

    @property
    def heads(self) -> bool:
        return any(parameter.heads for parameter in self.cell.parameters)

    @property
    def wide(self) -> bool:
        """Whether x is as wide as the states."""
        return self.cell.inputs["x"] == ("hidden",)

    @property
    def inputs(self) -> str:
        """What a step takes in, unless it is an x of any width alone."""
        others = {name: shape for name, shape in self.cell.inputs.items() if name != "x"}
        words = ["x, as wide as the states"] if self.wide else ["x"] if others else []
        return "; ".join([*words, *(f"{name}, {_wide_as(shape)}" for name, shape in others.items())])

    @property
    def parameters(self) -> str:
        """A line for each: its name, the shape of the tensor, its blocks, and how they begin."""
        rows = [(p.name, _shape(p), ", ".join(p.blocks), _beginning(p)) for p in self.cell.parameters]
        return "\n".join(_columns(rows))

    @property
    def facts(self) -> str:
        """A line for each of the others."""
        cell = self.cell
        wide = {name: "" if shape == ("hidden",) else f", {_wide_as(shape)}" for name, shape in self.states.items()}
        states = ("; " if any(wide.values()) else ", ").join(name + words for name, words in wide.items())
        found = [("states", states), ("output", " beside ".join(cell.outputs))]
        found += [("sizes", ", ".join(f"{name} = {size}" for name, size in cell.sizes.items()))]
        found += [("takes in", self.inputs)]
        found += [("constants", ", ".join(f"{name} = {number:g}" for name, number in cell.constants.items()))]
        found += [("activations", ", ".join(f"{name} = {function}" for name, function in cell.activations.items()))]
        found += [("parameters of a unit", self.numbers), ("recurrence", self.kind)]
        found += [("schedules", ", ".join(self.schedules))]
        return "\n".join(_columns((f"{subject}:", words) for subject, words in found if words))

    @property
    def layer(self) -> str:
        """A layer of a model file that has it."""
        keys = {"cell": f'"{self.cell.name}"', "hidden": "64"} | ({"heads": "4"} if self.heads else {})
        if self.cell.activations:
            functions = ", ".join(f'{name} = "{function}"' for name, function in self.cell.activations.items())
            keys["activations"] = f"{{ {functions} }}"
        if self.cell.sizes:
            keys["sizes"] = f"{{ {', '.join(f'{name} = {size}' for name, size in self.cell.sizes.items())} }}"
        width = max(map(len, keys))
        return "\n".join(["[[layers]]", *(f"{key:<{width}} = {value}" for key, value in keys.items())])

    @property
    def python(self) -> str:
        """A layer in Python, of the module that `rnngen compile` writes."""
        kind, sizes = self.cell.class_name, f"{64 if self.wide else 8}, 64{', heads=4' if self.heads else ''}"
        sizes += "".join(f", {name}={size}" for name, size in self.cell.sizes.items())
        return f"from {self.cell.name} import {kind}\n\nlayer = {kind}({sizes})"

    @property
    def picture(self) -> str:
        """The graph of its step, as a flowchart of mermaid."""
        return as_mermaid(programs_of([self.cell], "resolve")).rstrip("\n")

    def record(self) -> dict[str, Any]:
        """As JSON; a key may be added, none changes its meaning."""
        cell = self.cell
        return {
            "name": cell.name,
            "class": cell.class_name,
            "about": cell.about,
            "paper": cell.paper,
            "year": cell.year,
            "note": cell.note,
            "states": list(self.states),
            "inputs": {name: list(shape) for name, shape in cell.inputs.items()},
            "sizes": dict(cell.sizes),
            "output": cell.outputs[0],
            "outputs": list(cell.outputs),
            "equations": [equation.text for equation in cell.equations],
            "parameters": {
                p.name: {"shape": list(p.shape), "blocks": list(p.blocks), "heads": p.heads} for p in cell.parameters
            },
            "parameters_per_unit": self.numbers,
            "products": self.products,
            "linear": self.linear,
            "schedules": list(self.schedules),
        }


def entries(names: Iterable[str]) -> list[Entry]:
    """Cells of the library, by name."""
    sources = [library()[name] for name in names]
    cells = [describe(source).cells[0] for source in sources]
    found = []
    for cell, source, program in zip(cells, sources, programs_of(cells, "unfold"), strict=True):
        assert isinstance(program, Split)
        scan = chain(program.scan)
        products = sum(any(across.matrices for across in link.across) for link in scan.links)
        states = {leaf.name: leaf.shape for leaf in program.cell.leaves("state")}
        states = {state.name: states[state.name] for state in program.cell.states}
        found.append(Entry(cell, source.text, states, products, scan.facts.linear, possible(scan.facts)))
    return found


def as_table(found: Iterable[Entry]) -> str:
    """A line for each cell, below a line for each kind of recurrence: from what has the least to wait for on."""
    kinds: dict[tuple[int, bool, tuple[str, ...]], list[Entry]] = {}
    for entry in sorted(found, key=lambda entry: (entry.products, not entry.linear)):
        kinds.setdefault((entry.products, not entry.linear, entry.schedules), []).append(entry)
    rows = [("  cell", "class", "year", "states", "parameters of a unit")]
    for entry in (entry for group in kinds.values() for entry in group):
        cell = entry.cell
        earlier = len(entry.states) - len(cell.states)
        states = ", ".join(cell.states) + (f" +{earlier}" if earlier else "")
        rows.append((f"  {cell.name}", cell.class_name, str(cell.year), states, entry.numbers))
    drawn = _columns(rows)
    lines = [next(drawn)]
    for group in kinds.values():
        lines += ["", f"{group[0].kind}: {', '.join(group[0].schedules)}", *islice(drawn, len(group))]
    return "\n".join([*lines, "", f"{LEGEND} 'rnngen cells NAME' shows a cell."]) + "\n"


def as_text(entry: Entry) -> str:
    """A cell for a terminal."""
    said = (entry.cell.about, entry.cell.paper, entry.cell.note)
    return render(
        "catalogue", "cell.txt.jinja", entry=entry, said=[textwrap.fill(text, WIDTH) for text in said if text]
    )


def as_page(found: Iterable[Entry]) -> str:
    """The library in Markdown: `docs/cells.md`."""
    return render("catalogue", "cells.md.jinja", entries=list(found), plain=_plain)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is. A sign within a word, as in gru_flux, is none of Markdown's."""
    return re.sub(r"[\\`*<>\[\]|]", r"\\\g<0>", text)


def _sum(terms: Counter[tuple[str, ...]]) -> str:
    """Products of dimensions, with how often there is each: those of inputs first, and vectors last."""
    ordered = sorted(terms.items(), key=lambda term: ("I" not in term[0], not term[0]))
    return " + ".join(_term(dimensions, times) for dimensions, times in ordered)


def _term(dimensions: tuple[str, ...], times: int) -> str:
    product = " ".join(dimensions).replace(" heads", "/heads")
    word = " " if max(map(len, dimensions), default=0) > 1 and "heads" not in dimensions else ""
    return f"{times}{word}{product}" if times > 1 or not product else product


def _shape(parameter: Parameter) -> str:
    """The shape of its tensor."""
    sizes = [_LETTERS.get(dimension, dimension) for dimension in parameter.shape]
    blocks = len(parameter.blocks)
    if parameter.heads:
        return f"({'' if blocks == 1 else f'{blocks} '}heads, {', '.join(f'{size}/heads' for size in sizes)})"
    if not sizes:
        return f"({blocks},)"
    first = f"{blocks}{sizes[0]}" if blocks > 1 else sizes[0]
    return f"({', '.join([first, *sizes[1:]])}{',' if len(sizes) == 1 else ''})"


def _beginning(parameter: Parameter) -> str:
    """How its blocks begin, and whether they stay so."""
    each = [f"{block} {_value(init)}" for block, init in zip(parameter.blocks, parameter.init, strict=True)]
    begins = [_value(parameter.init[0])] if len(set(parameter.init)) == 1 else each
    return ", ".join([*begins, *([] if parameter.trained else ["not trained"])])


def _value(init: str | float) -> str:
    return init if isinstance(init, str) else f"{init:g}"


def _columns(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Lines of cells, each column as wide as its widest cell."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
