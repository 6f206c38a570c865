"""Names of cells, models, classes and values: which are names, which are free, and that each means one thing."""

import keyword
import re
import sys
from collections.abc import Iterable
from typing import Any

from rnngen.cell import Cell
from rnngen.description.tables import CellTable, LayerTable
from rnngen.document import Places
from rnngen.equations import LAG, Assignment
from rnngen.errors import Mistakes
from rnngen.matrices import CALLS
from rnngen.runtime import PUBLISHED
from rnngen.source import Span

PROJECTION = "weight_hr"  # what a layer with proj_size has besides the parameters of its cell
LONGEST_NAME = 64
NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}")
# Words that an equation, or the function it becomes, has another meaning for.
_WORDS = frozenset(keyword.kwlist) | CALLS.keys() | {"print", "range", "self", "state", "tl", "torch", "x"}
_WORDS |= {PROJECTION, LAG}
_LAGGED = re.compile(r"\w+_lag_[0-9]+")  # what states that `lag` makes are called
_ARGUMENTS = frozenset({"hx", "input", "reset_to", "resets"})  # of a layer's call, as an input by its name is
# Arguments of a layer's class, which a size is too, and dimensions that it has without one.
_DIMENSIONS = frozenset(keyword.kwlist) | LayerTable.model_fields.keys() | {"self", "inputs", "output", "given"}
_DIMENSIONS |= {"input_size", "hidden_size", "batch_first", "return_state", "nonlinearity", "device", "dtype"}
_IMPORTED = PUBLISHED.keys() | {"torch", "nn", "F"}
# No file can have these names on some systems; a module is a file.
_DEVICES = {"aux", "con", "nul", "prn"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10)}
# What a file would hide beside the standard library: torch and what it imports, and what rnngen does.
_IMPORTED_BY_TORCH = frozenset(
    """
    annotated_types click distutils filelock fsspec functorch jinja2 markupsafe mpmath networkx numpy packaging
    pkg_resources psutil pydantic pydantic_core rnngen scipy setuptools sympy torch torchgen triton typing_extensions
    typing_inspection
    """.split()
)
_RUN_UNASKED = {
    re.compile(pattern, re.IGNORECASE): program  # a file is found by another case on some systems
    for pattern, program in {
        "sitecustomize|usercustomize": "Python runs it at every start",
        r"conftest|test_\w*|\w+_test": "pytest runs it",
        "setup": "pip runs it",
        "noxfile": "nox runs it",
        r"jupyter_(\w+_)?config": "Jupyter runs it",
    }.items()
}
# What stands behind a cell's name in the names of its functions, at least as the first word.
_PARTS = ("forward", "adjoint", "step", "gradients", "scan", "run", "equations", "reference")


def class_name_of(name: str) -> str:
    """The class of a cell or model that names none: `leaky_unit` becomes `LeakyUnit`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def check_name(name: str, kind: str, span: Span | None, mistakes: Mistakes) -> None:
    """kind: "cell", "model", "class", or what it is within a cell."""
    if not NAME.fullmatch(name):
        shown = name if len(name) <= 40 else name[:37] + "..."
        points = dict.fromkeys(f"U+{ord(char):04X}" for char in name if not char.isascii())
        note = f"it holds {', '.join(list(points)[:4])}." if points else None
        hint = "a name is an ASCII letter, then at most 63 ASCII letters, digits or underscores."
        message = f"{shown!a} cannot be the name of a {kind}."
        mistakes.add("bad-name", message, span, notes=(note,), hints=(hint,))
    elif is_reserved(name, kind):
        hint = f"call it {'my_' if kind != 'class' else 'My'}{name}, or something else."
        if _LAGGED.fullmatch(name) and kind not in ("cell", "model", "class"):
            hint = "the states that lag makes are called so; give it another name."
        note = _taken_by(name) if kind in ("cell", "model") else None
        mistakes.add("reserved-name", f"The name '{name}' is reserved.", span, notes=(note,), hints=(hint,))


def _taken_by(name: str) -> str | None:
    """Why no file that Python may find can be called so."""
    for names, program in _RUN_UNASKED.items():
        if names.fullmatch(name):
            return f"{program}, wherever a file {name}.py lies."
    if name in sys.stdlib_module_names or name in _IMPORTED_BY_TORCH:
        return f"the file {name}.py would hide a module that Python or torch imports."
    return None


def is_reserved(name: str, kind: str) -> bool:
    """Whether a name of this kind has another meaning, in a description or for Python."""
    if kind == "model" and (class_name_of(name) in _IMPORTED or keyword.iskeyword(class_name_of(name))):
        return True
    if kind in ("cell", "model"):
        return _taken_by(name) is not None or name in _WORDS | _IMPORTED or name.lower() in _DEVICES
    if kind == "class":
        return name in _IMPORTED or keyword.iskeyword(name)
    if kind == "size":
        return name in _DIMENSIONS
    return name in _WORDS or (kind == "input" and name in _ARGUMENTS) or _LAGGED.fullmatch(name) is not None


def claim_names(
    cell: str, table: CellTable, equations: list[Assignment], places: Places, mistakes: Mistakes
) -> Iterable[str]:
    """Every name of a cell means one thing. An equation of two meanings is found by `check_names`.

    Gives the names, but those of states with a prime.
    """
    owners: dict[str, str] = {}

    def claim(name: str, kind: str, span: Span | None) -> None:
        check_name(name, kind, span, mistakes)
        if is_part(name, cell):
            message = f"The name '{name}' is that of a function of this cell."
            mistakes.add("reserved-name", message, span, hints=("give it another name.",))
        if name in owners:
            article = "an" if owners[name][0] in "aeiou" else "a"
            message = f"'{name}' is already the name of {article} {owners[name]} of this cell."
            mistakes.add("duplicate-name", message, span, "second use", hints=("give it another name.",))
        owners[name] = kind

    for number, state in enumerate(table.states):
        claim(state, "state", places.entry("states", number, state))
    for name in table.inputs:
        if name != "x":
            claim(name, "input", places.key("inputs", name))
    for name in table.constants:
        claim(name, "constant", places.key("constants", name))
    for name in table.activations:
        claim(name, "activation", places.key("activations", name))
    for name in table.parameters:
        claim(name, "parameter", places.key("parameters", name))
    for name, parameter in table.parameters.items():
        for number, block in enumerate(parameter.blocks or ()):
            if [block] != parameter.blocks or block != name:  # a parameter of one block may share its name
                claim(block, "block", places.value("parameters", name, "blocks", number))
    targets = (pair for equation in equations for pair in zip(equation.targets, equation.offsets, strict=True))
    for target, offset in dict(targets).items():
        if not target.endswith("'") and target not in owners and target != "x":  # `check_names` says what x is
            claim(target, "value", places.text(offset, len(target)))
    return owners.keys()


def is_part(name: str, cell: str) -> bool:
    """Whether a generated module may have a function of this name for the cell."""
    return name.startswith(f"{cell}_") and name.removeprefix(f"{cell}_").split("_")[0] in _PARTS


def check_clashes(model: Any, cells: Iterable[Cell], places: Places, mistakes: Mistakes) -> None:
    """A module has one of each name at its top."""
    cells = list(cells)
    owners: dict[str, str] = {class_name_of(model): "the model"} if isinstance(model, str) else {}
    for cell in cells:
        span = places.key("cells", cell.name)
        if owner := owners.get(cell.class_name):
            message = f"The cell '{cell.name}' and {owner} would both be a class '{cell.class_name}'."
            hint = "give the cell a class of another name, with the key class."
            mistakes.add("duplicate-name", message, span, hints=(hint,))
        owners.setdefault(cell.class_name, f"the cell '{cell.name}'")
        for other in cells:
            for name in (cell.name, cell.class_name):
                if is_part(name, other.name):
                    message = f"The cell '{other.name}' has a function whose name begins with '{name}'."
                    mistakes.add("reserved-name", message, span, hints=("give this cell another name.",))
