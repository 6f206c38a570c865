"""A generated module's kernels, or its CPU path, against the reference: every output and gradient by name.

The judge is `rnngen.reference`, in float64, from the same weights and inputs: it walks the cells as they were
described, and shares no line with the module. The layers' own `reference` method is judged by it too. The
module runs in a child process, because Triton decides when it is imported whether it interprets; the half of
this file that stays behind needs no torch.
"""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

from rnngen.across import ACROSS
from rnngen.errors import visible
from rnngen.ir import Program
from rnngen.runtime.compiler import survey
from rnngen.source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rnngen.compile import Module
    from rnngen.runtime.layer import Layer

    # From x, with what else comes in by name, and states to the output and the last states.
    _Answer = Callable[[dict[str, Tensor], list[Tensor]], tuple[Tensor, list[Tensor]]]

__all__ = ["NATIVE", "OWN", "TOLERANCES", "Case", "Plan", "Tolerance", "VerifierFailed", "verify"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest relative RMS error, and why it is not smaller."""

    limit: float
    reason: str


TOLERANCES = {
    "float64": Tolerance(1e-12, "sums in another order, over few steps: some hundred roundings of 1e-16"),
    "float32": Tolerance(1e-5, "the same with roundings of 6e-8, and gradients that cancel"),
    "bfloat16": Tolerance(2e-2, "each stored value is rounded by up to 4e-3; sums are kept in float32"),
    "float16": Tolerance(5e-3, "each stored value is rounded by up to 5e-4; sums are kept in float32"),
}
NATIVE = ("float64", "float32")  # the types that native code has
OWN = "reference in float64"  # among the names of errors: the worst of the layer's own `reference` method


@dataclass(frozen=True, slots=True)
class _Run:
    """Sizes, the constructor's options, the lengths of the sequences if they differ, and for each element of the batch
    the steps at which another sequence begins.

    Sizes are awkward on purpose: 1, primes, one more than a tile.
    """

    time: int
    batch: int
    hidden: int
    inputs: int
    options: dict[str, Any] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    resets: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        options = "".join(f" {key}={value}" for key, value in self.options.items())
        lengths = f" lengths={','.join(map(str, self.lengths))}" if self.lengths else ""
        resets = f" resets={'/'.join(','.join(map(str, steps)) for steps in self.resets)}" if self.resets else ""
        return f"T={self.time} B={self.batch} H={self.hidden} I={self.inputs}{options}{lengths}{resets}"


_RUNS = (
    _Run(1, 1, 1, 1),
    _Run(2, 1, 3, 1, {"reverse": True}),
    _Run(3, 2, 5, 7, {"initial_state": "learned"}, resets=((0, 2), (1,))),
    _Run(7, 3, 13, 2, resets=((2, 3), (), (0, 6))),
    _Run(4, 17, 16, 3, {"reverse": True}),
    _Run(3, 5, 33, 11),
    _Run(4, 3, 5, 2, {"num_layers": 2, "bidirectional": True}, (4, 1, 3), ((2,), (0,), (1, 2))),
    _Run(3, 2, 7, 3, {"proj_size": 3}),
)
_RUNS_WITH_HEADS = (
    _Run(3, 2, 3, 5, {"heads": 3}),
    _Run(5, 3, 14, 2, {"heads": 2, "reverse": True}),
    _Run(2, 17, 34, 3, {"heads": 2}),
)
# A few numbers alone may cancel to almost nothing, and any error is large relative to that. So the errors of
# several draws are measured together: of the first seeds for which the type can tell right from wrong, or of the
# first of all where too few are found.
_FEWEST = 4  # units of a head, and features, where units are compared with one another
_DRAWS = 4
_SEEDS = 24
_RATE = 0.3  # of wrappers that have one
# An error may be so many times what rounding alone does to the judge, who rounds less often than a module and in
# another order.
_ROUNDINGS = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. where: a sentence. cases: how many `Case`s follow."""

    where: str
    cases: int


@dataclass(frozen=True, slots=True)
class Case:
    """One layer class on one size. errors: relative RMS error by name, `OWN` among them.

    A cell may amplify rounding, or compare numbers that rounding makes equal; then the judge is as far off.
    plain: the error of the judge itself in this type, where that is half precision.
    moved: how far rounding alone moves the judge, in the other types, where an error is beyond the type's table.
    unknown: names that cannot be compared, of which there is no error here; `failure` says why.
    skipped: why the schedule cannot run this. failure: the exception that was raised instead of an answer.
    """

    layer: str
    schedule: str
    dtype: str
    sizes: str
    errors: dict[str, float] = field(default_factory=dict)
    plain: dict[str, float] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    skipped: str = ""
    failure: str = ""

    def table(self, name: str) -> float:
        """The largest error of a cell that is as steady as most."""
        return TOLERANCES["float64" if name == OWN else self.dtype].limit

    def limit(self, name: str) -> float:
        """The largest error allowed: that of the type's table, or more where the judge itself is less steady."""
        return max(self.table(name), 2 * self.plain.get(name, 0.0), _ROUNDINGS * self.moved.get(name, 0.0))


class VerifierFailed(RuntimeError):
    """The child process gave no answer. `str()` of it is a sentence that is safe to print.

    ours: the process has crashed, for which no user is to blame.
    """

    def __init__(self, sentence: str, ours: bool = False) -> None:
        super().__init__(sentence)
        self.ours = ours


def verify(
    source: Source,
    module: Module,
    path: str = "kernels",
    dtypes: Sequence[str] = (),
    schedules: Sequence[str] = (),
    wrappers: Sequence[str] = (),
    save: str = "",
) -> Iterator[Plan | Case]:
    """Run the module that was made of `source` with these wrappers and this `save`: the plan first, then each case
    when it is done.

    path: "kernels", "native" code or "torch".

    Without dtypes all of them are tried that the path has, see `NATIVE`, without schedules all that the module has.
    Raises VerifierFailed where torch, triton or a C compiler is missing, the module has no such schedule, or the child
    process crashed.
    """
    with tempfile.TemporaryDirectory(prefix="rnngen-") as folder:
        for name, text in module.files.items():
            Path(folder, name).write_bytes(text.encode())
        model = Path(folder, "model.toml")
        model.write_bytes(source.text.encode())
        files = os.fspath(Path(folder, f"{module.name}.py")), os.fspath(model)
        dtypes = dtypes or (NATIVE if path == "native" else tuple(TOLERANCES))
        order = json.dumps([*files, path, list(dtypes), list(schedules), list(wrappers), save])
        root = os.fspath(Path(__file__).resolve().parent.parent)
        # This very rnngen, though another may be installed; and nothing else from where it lies.
        start = f"import sys; sys.path.insert(0, {root!r}); from rnngen.verify import child; del sys.path[0]"
        # -P: a file called torch.py in the current directory is not torch.
        command = [sys.executable, "-P", "-c", f"{start}; child({order!r})"]
        with tempfile.TemporaryFile() as complaints:
            child_process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
            )
            assert child_process.stdout is not None  # but a pipe
            try:
                yield from _answers(child_process, child_process.stdout, complaints)
            finally:  # also where the caller stops listening, or is interrupted
                child_process.kill()
                child_process.wait()
                child_process.stdout.close()


def _answers(child_process: subprocess.Popen[bytes], lines: IO[bytes], complaints: IO[bytes]) -> Iterator[Plan | Case]:
    kinds: dict[str, type[Plan | Case]] = {"plan": Plan, "case": Case}
    for line in lines:
        kind, record = json.loads(line)
        if kind == "done":
            return
        if kind == "refused":
            raise VerifierFailed(record)
        yield kinds[kind](**record)
    code = child_process.wait()
    complaints.seek(0)
    last = (complaints.read().decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
    message = f"The process that ran the module ended early, with exit code {code}: {visible(last)[:300]}"
    raise VerifierFailed(message, ours=True)


# The child process. Whatever needs torch is imported below this line, inside the functions.


def child(order: str) -> None:
    """Do what `verify` orders and print one JSON line for each answer."""
    file, model, path, dtypes, schedules, wrappers, save = json.loads(order)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what anybody else prints is no answer

    def answer(kind: str, record: Any) -> None:
        print(json.dumps([kind, record]), file=answers, flush=True)

    try:
        import torch
    except ModuleNotFoundError as missing:
        if missing.name != "torch":
            raise
        answer("refused", "The package 'torch' is not installed, and nothing can be verified without it.")
        return
    interpret = _wants_interpreter() or not torch.cuda.is_available()
    if path == "kernels" and interpret:
        os.environ["TRITON_INTERPRET"] = "1"
    else:
        os.environ.pop("TRITON_INTERPRET", None)
    if path == "torch":
        os.environ["RNNGEN_NATIVE"] = "0"
    from rnngen.runtime.language import MISSING, interpreting
    from rnngen.runtime.launch import has_kernels

    if path == "kernels" and MISSING:
        answer("refused", f"No kernel can run: {visible(MISSING)[:300]}; --path torch works without it.")
        return
    device = torch.device("cpu" if path != "kernels" or interpret else "cuda")
    if (has_kernels(device.type), interpreting()) != (path == "kernels", path == "kernels" and interpret):
        raise RuntimeError(f"what runs on '{device.type}' is not what was asked for")
    module, described = _imported(file), _described(model, wrappers, save)
    layers = [(layer, described[layer.cell.name]) for layer in _layers(module)]
    cases = [case for layer in layers for case in _cases(module, *layer, dtypes, path, schedules)]
    known = sorted({name for layer, _ in layers for name in _schedules(module, layer)})
    if strangers := [name for name in schedules if name not in known]:
        asked = " or ".join(strangers)
        answer("refused", f"No layer has the schedule {visible(asked)}; there are {', '.join(known)}.")
        return
    if path == "native" and (reason := _not_native(module, [layer for layer, _ in layers], dtypes)):
        answer("refused", f"No native code can run: {visible(reason)[:500]}; --path torch works without it.")
        return
    if path == "torch":
        where = "The CPU path, in torch."
    elif path == "native":
        where = f"The CPU path, in native code by {visible(survey()['version']) or 'a compiler that is gone'}."
    elif interpret:
        where = "The kernels, in Triton's interpreter on the CPU: slow, with the same results."
    else:
        where = f"The kernels, compiled, on {torch.cuda.get_device_name()}."
    answer("plan", asdict(Plan(where, len(cases))))
    for layer, program, schedule, dtype, run in cases:
        answer("case", asdict(_case(layer, program, schedule, dtype, run, device)))
    answer("done", None)


def _not_native(module: ModuleType, layers: Sequence[type[Layer]], dtypes: Sequence[str]) -> str:
    """Why native code of a layer is not to be had in one of these types, "" if all is."""
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for layer in layers:
            scan = getattr(module, f"{layer.cell.name}_scan")
            for sweep, dtype in product((scan.forward, scan.adjoint), dtypes):
                if sweep.function(getattr(torch, dtype)) is None:
                    said = [str(warning.message) for warning in told]
                    return survey()["reason"] or next(iter(said), f"there is no C of {layer.__name__}")
    return ""


def _wants_interpreter() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


def _imported(file: str) -> ModuleType:
    spec = spec_from_file_location(Path(file).stem, file)
    assert spec and spec.loader  # which every name of a Python file has
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _described(model: str, wrappers: Sequence[str], save: str) -> dict[str, Program]:
    """The cells of a model file by name, as they were described: with shapes and what is around them, and no pass has
    changed them.
    """
    from rnngen.compile import programs_of
    from rnngen.description import describe

    description = describe(Source("model.toml", Path(model).read_bytes().decode()), wrappers, save)
    forms = {cell.name: programs_of([cell], "wrap" if cell.wrappers else "infer") for cell in description.cells}
    return {name: program for name, (program,) in forms.items()}


def _layers(module: ModuleType) -> list[type[Layer]]:
    from rnngen.runtime import Layer

    classes = (value for value in vars(module).values() if isinstance(value, type))
    return [value for value in classes if issubclass(value, Layer) and value.__module__ == module.__name__]


def _schedules(module: ModuleType, layer: type[Layer]) -> list[str]:
    """The schedules that have kernels for both directions of a layer's scan."""
    scan = getattr(module, f"{layer.cell.name}_scan")
    return [name for name in scan.forward.kernels if name in scan.adjoint.kernels]


def _cases(
    module: ModuleType,
    layer: type[Layer],
    described: Program,
    dtypes: Sequence[str],
    path: str,
    wanted: Sequence[str],
) -> Iterator[tuple[type[Layer], Program, str, str, _Run]]:
    schedules = [name for name in _schedules(module, layer) if not wanted or name in wanted]
    if path != "kernels":
        schedules = ["auto"]  # which means nothing there
    runs: tuple[_Run, ...] = (
        (*_RUNS, *_RUNS_WITH_HEADS) if any(weight.heads for weight in layer.cell.weights) else _RUNS
    )
    if any(value.op in ACROSS and value.op != "matmul" for value in described.cell.values):
        runs = tuple(map(_with_several_units, runs))
    runs = tuple(_with_fitting_widths(layer, run) for run in runs)
    for schedule in schedules:
        for dtype in dtypes:
            for run in runs:
                yield layer, described, schedule, dtype, run


def _with_several_units(run: _Run) -> _Run:
    """The run for a cell that looks across units: a norm of one is zero whatever that is, and so is its gradient. That
    of a product with one feature is the same whatever that is, and its gradient again what rounding leaves of zero.
    """
    hidden = max(run.hidden, _FEWEST * run.options.get("heads", 1))
    return replace(run, hidden=hidden, inputs=max(run.inputs, _FEWEST))


def _with_fitting_widths(layer: type[Layer], run: _Run) -> _Run:
    """The run, with an input of a width that each of its layers can have, where x must be as wide as the states, or
    what else is as wide as x goes to all layers; with one layer where there is no such width.
    """
    cell, layers = layer.cell, run.options.get("num_layers", 1)
    of_states = cell.inputs["x"] == "hidden"
    if not of_states and (layers == 1 or [*cell.inputs.values(), *cell.widths.values()].count("inputs") == 1):
        return run

    def given_on(inputs: int) -> int:
        own = cell.given_on({"inputs": inputs, "hidden": run.hidden, **cell.sizes})
        width: int = run.options.get("proj_size") or own
        return 2 * width if run.options.get("bidirectional") else width

    inputs = run.hidden if of_states else given_on(run.inputs)
    one = {} if layers == 1 or given_on(inputs) == inputs else {"num_layers": 1}
    return replace(run, inputs=inputs, options=run.options | one)


def _case(layer: type[Layer], described: Program, schedule: str, dtype: str, run: _Run, device: torch.device) -> Case:
    from rnngen.runtime.plan import NotPossible

    case = partial(Case, layer.__name__, schedule, dtype, str(run))
    try:
        return _compared(case, _trials(layer, described, schedule, dtype, run, device), dtype)
    except NotPossible as reason:
        return case(skipped=str(reason))
    except Exception as error:  # a kernel that cannot run at all is a finding, and the other cases go on
        return case(failure=f"{type(error).__name__}: {visible(str(error))[:300]}")


def _compared(case: Callable[..., Case], trials: Sequence[_Trial], dtype: str) -> Case:
    """The case, with what its trials gave. case: makes one of errors and the like."""
    exact, in_type = [trial.exact for trial in trials], [trial.plain for trial in trials]
    errors = _errors([trial.found() for trial in trials], exact)
    own = _errors([trial.own() for trial in trials], exact)
    plain = _errors(in_type, exact) if dtype in ("bfloat16", "float16") else {}
    moved = {} if plain else _moved(trials, errors, dtype)
    own_moved = _moved(trials, own, "float64")
    worst = max(own_moved or own, key=lambda name: own[name] / max(1e-13, min(1.0, own_moved.get(name, 1.0))))
    errors[OWN] = own[worst]
    moved |= {OWN: own_moved[worst]} if worst in own_moved else {}
    found = case(errors=errors, plain=plain, moved=moved)

    why = dict.fromkeys(_not_finite(exact), "the cell as it was described is not finite there")
    for name in _not_finite(in_type):
        why.setdefault(name, f"the cell as it was described is not finite there in {dtype}")
    lost = [name for name in errors if errors[name] > found.table(name) and found.limit(name) >= 1]  # zeros would pass
    far = max(((plain | moved)[name] for name in lost), default=0.0)
    for name in lost:
        why.setdefault(name, f"rounding alone moves the cell as it was described by up to {far:.0%} there")
    if not why:
        return found
    groups = {reason: ", ".join(name for name in why if why[name] == reason) for reason in why.values()}
    failure = "; ".join(f"{names} cannot be compared: {reason}" for reason, names in groups.items())
    errors = {name: error for name, error in errors.items() if name not in (*why, OWN)}
    failure += ", for inputs and states drawn around zero"
    return replace(found, errors=errors, unknown=(*why, OWN), failure=failure)


def _moved(trials: Sequence[_Trial], errors: dict[str, float], dtype: str) -> dict[str, float]:
    """By the names of errors that the type's table does not allow: how far rounding in the type moves the judge."""
    import torch

    names = [name for name, error in errors.items() if not error <= TOLERANCES[dtype].limit]
    if not names:
        return {}
    eps = torch.finfo(getattr(torch, dtype)).eps
    rounds = [_errors([trial.moved(eps, n) for trial in trials], [trial.exact for trial in trials]) for n in range(3)]
    return {name: max(errors[name] for errors in rounds) for name in names}


@dataclass(frozen=True, slots=True)
class _Trial:
    """A layer with weights, and what goes in, from one seed.

    made: the layer in the module's type. double: the same numbers in float64. xs: what comes in at each step, by name.
    exact: outputs and gradients of the judge by name, in float64. plain: of the judge in the module's type.
    """

    described: Program
    run: _Run
    made: Layer
    double: Layer
    xs: dict[str, Tensor]
    states: list[Tensor]
    exact: dict[str, Tensor]
    plain: dict[str, Tensor]

    @property
    def dtype(self) -> torch.dtype:
        return self.xs["x"].dtype

    def found(self) -> dict[str, Tensor]:
        """Outputs and gradients of the module."""
        return _answer_of(self.made, _method(self.made.forward, self.run), self.xs, self.states, self.dtype)

    def own(self) -> dict[str, Tensor]:
        """Those of the layer's `reference` method, in float64 as the judge."""
        answer = _method(self.double.reference, self.run)
        return _answer_of(self.double, answer, _all_doubled(self.xs), _doubled(self.states), self.dtype)

    def moved(self, eps: float, seed: int) -> dict[str, Tensor]:
        """Those of the judge in float64, where each number that it takes or computes is moved by about `eps` of it."""
        import torch
        from torch.overrides import TorchFunctionMode

        generator = torch.Generator().manual_seed(seed)

        def near(number: Tensor) -> Tensor:
            noise = torch.randn(number.shape, generator=generator, dtype=torch.float64)
            return number * (1 + eps * noise.to(number.device))

        class Rounding(TorchFunctionMode):
            def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = function(*args, **kwargs or {})
                is_number = isinstance(result, torch.Tensor) and result.is_floating_point()
                return near(result) if is_number else result

        layer = copy.deepcopy(self.double)
        with torch.no_grad():
            for tensor in _tensors(layer).values():
                tensor.copy_(near(tensor))
        judge = _judge(layer, self.described, self.run)

        def answer(xs: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            with Rounding():
                return judge(xs, states)

        xs = {name: near(rows) for name, rows in _all_doubled(self.xs).items()}
        return _answer_of(layer, answer, xs, [near(state) for state in _doubled(self.states)], self.dtype)


def _trials(
    layer: type[Layer], described: Program, schedule: str, dtype: str, run: _Run, device: torch.device
) -> list[_Trial]:
    """Those that a case compares: see `_DRAWS`."""
    first: list[_Trial] = []
    telling: list[_Trial] = []
    for seed in range(_SEEDS):
        trial = _trial(layer, described, schedule, dtype, run, device, seed)
        first = [*first, trial][:_DRAWS]
        if not _not_finite([trial.exact, trial.plain]) and max(_errors([trial.plain], [trial.exact]).values()) < 0.5:
            telling.append(trial)
        if len(telling) == _DRAWS:
            return telling
    return first


def _trial(
    layer: type[Layer], described: Program, schedule: str, dtype: str, run: _Run, device: torch.device, seed: int
) -> _Trial:
    import torch

    torch.manual_seed(seed)
    rates: dict[str, Any] = {one.rate: _RATE for one in described.drawn}
    made = layer(run.inputs, run.hidden, schedule=schedule, dtype=torch.float64, **run.options, **rates)
    with torch.no_grad():
        for tensor in _tensors(made).values():  # one that begins as zero would hide that it is not used
            spread = 0.3 / tensor.shape[-1] ** 0.5 if tensor.dim() > 1 else 0.3
            tensor.add_(spread * torch.randn_like(tensor))
    kind = getattr(torch, dtype)
    made = made.to(device, kind)
    # The judge starts from the rounded numbers.
    double = copy.deepcopy(made).double()
    widths: dict[str, tuple[int, ...]] = {"": (), "inputs": (run.inputs,), "hidden": (run.hidden,)}
    shapes = {name: (run.time, run.batch, *widths[of]) for name, of in made.cell.inputs.items()}
    wide = kind if kind.itemsize > 2 else torch.float32  # of numbers
    kinds = {name: kind if of else wide for name, of in made.cell.inputs.items()}
    xs = {name: torch.randn(shape).to(device, kinds[name]) for name, shape in shapes.items()}
    states: list[Tensor] = []
    if "initial_state" not in run.options:
        parts = _parts(made.initial_state(run.batch)) * (2 if run.resets else 1)  # what resets return to as well
        states = [torch.randn(state.shape).to(device, kind) for state in parts]
    exact = _answer_of(double, _judge(double, described, run), _all_doubled(xs), _doubled(states), kind)
    plain = exact if dtype == "float64" else _answer_of(made, _judge(made, described, run), xs, states, kind)
    return _Trial(described, run, made, double, xs, states, exact, plain)


def _all_doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


def _tensors(layer: Layer) -> dict[str, Tensor]:
    """What a layer has by name, trained or not."""
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def _doubled(states: Sequence[Tensor]) -> list[Tensor]:
    return [state.double() for state in states]


def _parts(state: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


def _method(method: Callable[..., Any], run: _Run) -> _Answer:
    """A method of the layer, with sequences packed where their lengths differ."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    def packed(rows: Tensor) -> Any:
        if not run.lengths:
            return rows
        return pack_padded_sequence(rows, torch.tensor(run.lengths), enforce_sorted=False)

    def answer(xs: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        states, begins = _with_begins(states, run)
        hx = (states[0] if len(states) == 1 else tuple(states)) if states else None
        x, *_ = xs.values()
        options: dict[str, Any] = {name: packed(rows) for name, rows in xs.items() if name != "x"}
        if begins:
            options["reset_to"] = begins[0] if len(begins) == 1 else tuple(begins)
        if run.resets:
            flags = torch.zeros(x.shape[:2], dtype=torch.bool)
            for element, steps in enumerate(run.resets):
                flags[list(steps), element] = True
            options["resets"] = packed(flags.to(x.device))
        y, last = method(packed(x), hx, **options)
        return pad_packed_sequence(y)[0] if run.lengths else y, _parts(last)

    return answer


def _with_begins(states: list[Tensor], run: _Run) -> tuple[list[Tensor], list[Tensor]]:
    """The states that a call begins with, and those that its resets return to."""
    count = len(states) // (2 if run.resets else 1)
    return states[:count], states[count:]


def _judge(layer: Layer, described: Program, run: _Run) -> _Answer:
    """The cell as it was described, with the parameters of the layer."""
    from rnngen import reference

    def answer(xs: dict[str, Tensor], states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        parameters = _tensors(layer)
        names = layer.cell.states
        states, begins = _with_begins(states, run)
        if not states:
            rows = [parameters[f"initial_{name}"] for name in names]
            states = begins = [row.unsqueeze(1).expand(-1, run.batch, -1) for row in rows]
        directions = {key: run.options.get(key, False) for key in ("bidirectional", "reverse")}
        named, first = (dict(zip(names, group, strict=True)) for group in (states, begins or states))
        masks = reference.Masks(described.drawn, _RATE, run.lengths)
        layers, sides = run.options.get("num_layers", 1), ("", "_reverse") if directions["bidirectional"] else ("",)
        places = [f"_l{number}{side}" for number in range(layers) for side in sides]
        some = states[0].new_empty(run.batch, run.hidden)
        y, last = reference.layers(
            described.cell,
            xs["x"],
            named,
            masks.on(parameters, places),
            **directions,
            lengths=run.lengths,
            resets=run.resets,
            begins=first,
            others={name: rows for name, rows in xs.items() if name != "x"},
            drawn=lambda _, features: masks.over(run.time, some, features, layer.sizes),
        )
        return y, list(last.values())

    return answer


def _answer_of(
    layer: Layer, answer: _Answer, xs: dict[str, Tensor], states: list[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Outputs and gradients by name. dtype: in which the gradients are drawn that come in from outside."""
    import torch

    xs = {name: rows.detach().requires_grad_() for name, rows in xs.items()}
    states = [state.detach().requires_grad_() for state in states]
    torch.manual_seed(len(states))  # by which all answers have what is drawn in common
    y, last = answer(xs, states)
    outputs = [y, *last]
    generator = torch.Generator().manual_seed(len(outputs))
    incoming = [torch.randn(output.shape, generator=generator).to(dtype).to(output) for output in outputs]
    parameters = dict(layer.named_parameters())
    leaves = [*xs.values(), *states, *parameters.values()]
    gradients = torch.autograd.grad(outputs, leaves, incoming, allow_unused=True, materialize_grads=True)
    given = [f"d_{begin}{state}" for begin in ("", "first_") for state in layer.cell.states]
    names = [
        "y",
        *(f"last {state}" for state in layer.cell.states),
        *(f"d_{name}" for name in xs),
        *given[: len(states)],
        *(f"d_{name}" for name in parameters),
    ]
    return dict(zip(names, (tensor.detach() for tensor in (*outputs, *gradients)), strict=True))


def _errors(found: Sequence[dict[str, Tensor]], wanted: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """By name the error over all draws."""
    return {name: _error([answer[name] for answer in found], [answer[name] for answer in wanted]) for name in wanted[0]}


def _not_finite(answers: Sequence[dict[str, Tensor]]) -> list[str]:
    """Names of what the judge itself gives numbers of that are not finite."""
    return [name for name in answers[0] if not all(answer[name].isfinite().all() for answer in answers)]


def _error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The relative RMS error of all tensors together; infinite where only one of a pair is finite."""
    import torch

    ours = torch.cat([tensor.double().flatten() for tensor in found])
    theirs = torch.cat([tensor.double().flatten() for tensor in wanted])
    finite = torch.isfinite(theirs)
    if not torch.equal(finite, torch.isfinite(ours)):
        return math.inf
    ours, theirs = ours[finite], theirs[finite]
    largest = max((tensor.abs().max().item() for tensor in (ours, theirs) if len(tensor)), default=0.0)
    if not largest:
        return 0.0
    difference = (ours / largest - theirs / largest).norm().item()  # the square of a large number is infinite
    size = (theirs / largest).norm().item()
    return difference / size if size else math.inf
