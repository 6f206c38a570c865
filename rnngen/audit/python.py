"""The last look at a generated module, read as Python would.

It may have what a kernel, a launcher, a layer and a step in torch consist of. So a mistake in the emitter or in a
template becomes a fault here, and not code that runs at import.
"""

import ast
import builtins
import re

from rnngen.audit.lines import Unsafe, check_lines
from rnngen.emit.statements import Spelling
from rnngen.emit.targets import TARGETS
from rnngen.runtime import PUBLISHED

# What the text may import, and what from where, by these names and no others.
_IMPORTS = {("torch", None), ("torch.nn.functional", "F")}
_IMPORTS_FROM = {"torch": {"nn"}, "rnngen.runtime": PUBLISHED.keys()}

# What it may say of a library, from the library's name to the last word. A library by itself is no value: whoever holds
# one has all that it has imported.
_LIBRARIES = frozenset({"torch", "F", "nn", "tl", "triton"})
# That is what the targets spell operations with, and what the templates say.
_SPELLED = re.compile(r"(?<![\w.])(?:torch|F|nn|tl|triton)(?:\.\w+)+")
_OF_TEMPLATES = frozenset(
    "nn.Dropout nn.Linear tl.arange tl.cast tl.constexpr tl.int64 tl.load tl.num_programs tl.program_id tl.range "
    "tl.zeros tl.zeros_like triton.jit".split()
)


def _spelled(spelling: Spelling) -> set[str]:
    texts = [
        *spelling.calls.values(),
        *spelling.with_number.values(),
        *spelling.with_fraction.values(),
        spelling.filled,
    ]
    return {word for text in texts for word in _SPELLED.findall(text)}


OF_LIBRARIES = _OF_TEMPLATES.union(*(_spelled(target.spelling) for target in TARGETS.values()))
# What it may say of anything else: of a tensor, a pointer, a scan, super().
_ATTRIBUTES = frozenset(
    """
    __init__ accumulator begin buffer carry chunk clone copy_ cut expand_as inputs last mask outputs parameters reshape
    shape states steps sum to unbind
    """.split()
)

_NODES = frozenset(
    """
    Module Expr Import ImportFrom alias FunctionDef ClassDef Return Assign AnnAssign For If arguments arg keyword Call
    Attribute Name Constant Tuple List Dict Subscript Slice Starred GeneratorExp comprehension BinOp UnaryOp Compare
    Load Store USub Add Sub Mult Div Eq NotEq Lt LtE Gt GtE Is IsNot IfExp
    """.split()
)
_CONTEXTS = (ast.Load, ast.Store)
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)
_BUILTINS = frozenset({"super", "zip"})
# The one statement that may say __spec__, and what stands before it.
_CHECK = re.compile(
    r"from rnngen\.runtime import check_module\ncheck_module\(__spec__, format=[0-9]+(?:, c='[0-9a-f]{64}')?\)"
)


def audit_python(content: bytes) -> None:
    """Raises Unsafe if these bytes are not Python of the allowed kinds, say of a library what no emitter writes, use a
    name that they do not define, or define one twice.
    """
    check_lines(content)
    try:
        tree = ast.parse(content)  # of bytes: a cookie that was overlooked is followed here as it would be at import
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unsafe(f"it is not Python: {error}") from error
    pairs = zip([None, *tree.body], tree.body, strict=False)  # a statement, behind the one before it
    tree.body = [node for before, node in pairs if not _is_check(before, node)]
    nodes = _nodes(tree)
    for node in nodes:
        _check_node(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            _check_body(node.body)
    _check_names(nodes)


def _is_check(before: ast.stmt | None, node: ast.stmt) -> bool:
    if not (isinstance(before, ast.ImportFrom) and isinstance(node, ast.Expr)):
        return False
    return bool(_CHECK.fullmatch(f"{ast.unparse(before)}\n{ast.unparse(node)}"))


def _nodes(tree: ast.AST) -> list[ast.AST]:
    """Every node, less the parts of what may be said of a library, and less Load and Store, which say nothing: without
    these an audit takes a fifth less time.
    """
    found = [tree]
    for node in found:
        if isinstance(node, ast.Attribute) and _dotted(node) in OF_LIBRARIES:
            continue
        for name in node._fields:
            part = getattr(node, name, None)
            if isinstance(part, list):
                found += [item for item in part if isinstance(item, ast.AST)]
            elif isinstance(part, ast.AST) and not isinstance(part, _CONTEXTS):
                found.append(part)
    return found


def _dotted(node: ast.AST | None) -> str:
    """A name and what is said of it, `tl.PropagateNan.ALL`; "" for what does not begin with a name."""
    words = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(words)]) if isinstance(node, ast.Name) else ""


def _check_node(node: ast.AST) -> None:
    kind = type(node).__name__
    if kind not in _NODES:
        raise _at(node, f"{kind} is not allowed")
    match node:
        case ast.Name(id=word):
            if word.startswith("__") or word in _LIBRARIES:
                raise _at(node, f"the name {word} by itself is not allowed")
        case ast.Attribute(attr=word, ctx=context):
            known = word in _ATTRIBUTES or _dotted(node) in OF_LIBRARIES
            if not known or not isinstance(context, ast.Load):  # torch.tanh = ... would be torch's for all
                raise _at(node, f"{ast.unparse(node)} is not allowed")
        case ast.Import(names=names):
            for name in names:
                if (name.name, name.asname) not in _IMPORTS:
                    raise _at(node, f"the import of {name.name} is not allowed")
        case ast.ImportFrom(module=module, names=names, level=level):
            allowed = _IMPORTS_FROM.get(module or "", ())
            if level or any(name.asname or name.name not in allowed for name in names):
                raise _at(node, f"this import from {module} is not allowed")
        case ast.FunctionDef(decorator_list=decorators) | ast.ClassDef(decorator_list=decorators):
            for decorator in decorators:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                if _dotted(called) != "triton.jit":
                    raise _at(decorator, f"the decorator {ast.unparse(called)} is not allowed")
        case ast.arg(arg=word) | ast.keyword(arg=str(word)) if word.startswith("__"):
            raise _at(node, f"the name {word} is not allowed")
        case ast.Call(func=function) if not isinstance(function, ast.Name | ast.Attribute):
            raise _at(node, f"a call of a {type(function).__name__} is not allowed")
        case ast.arg(annotation=ast.AST() as annotation) | ast.AnnAssign(annotation=annotation):
            if _dotted(annotation) != "tl.constexpr":
                raise _at(node, f"the annotation {ast.unparse(annotation)} is not allowed")
        case ast.Expr(value=value) if not (isinstance(value, ast.Call) or _is_text(node)):
            raise _at(node, "this expression by itself is not allowed")


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _check_names(nodes: list[ast.AST]) -> None:
    """Every name that is read is defined in the module or is a harmless builtin, and no other builtin is called."""
    defined = set(_BUILTINS)
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                defined.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                defined.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                defined.update(name.asname or name.name for name in names)
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Load()) if name not in defined:
                raise _at(node, f"the name {name} is not defined")
            case ast.Attribute() if (path := _dotted(node)) in OF_LIBRARIES and path.split(".")[0] not in defined:
                raise _at(node, f"the name {path.split('.')[0]} is not defined")
            case ast.Call(func=ast.Name(id=name)) if name in vars(builtins) and name not in _BUILTINS:
                raise _at(node, f"the call of {name} is not allowed")


def _check_body(body: list[ast.stmt]) -> None:
    """What runs when the module is imported: a docstring, then definitions, and no name is defined twice."""
    for place, statement in enumerate(body):
        if not (isinstance(statement, _DEFINITIONS) or (place == 0 and _is_text(statement))):
            raise _at(statement, f"{type(statement).__name__} is not allowed outside a function")
    names = [name for statement in body for name in _defined_by(statement)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Unsafe(f"the name {twice} is defined twice")


def _defined_by(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return [name.asname or name.name for name in names]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _at(node: ast.AST, message: str) -> Unsafe:
    return Unsafe(f"line {getattr(node, 'lineno', '?')}: {message}")
