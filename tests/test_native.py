"""Native code on a CPU against the reference, and what torch may do with a layer that runs it.

What the tests of the torch steps ask, they ask of native code too with RNNGEN_TEST_NATIVE=1.
"""

import copy
import io
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial

import cells
import pytest
import sanitized
import torch
from test_runtime import flat
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.checkpoint import checkpoint

import rnngen.runtime.native
from rnngen import verify
from rnngen.ir import Program
from rnngen.runtime import linear, node, sweep
from rnngen.runtime.layer import Layer

LIMITS = {"float64": 1e-12, "float32": 2e-6}
SEEDS = 24
EVERY = cells.LIBRARY | cells.INVENTED
AUTOMATON = EVERY.pop("automaton")  # its state has no gradient
QUICK = {("float64", name) for name in cells.ALL if name in EVERY} | {
    ("float32", name) for name in ("gru_v3", "lstm", "slstm_flashrnn")
}


class Calls:
    """Counts the calls of native code."""

    def __init__(self) -> None:
        self.scans = self.products = 0

    def counted(self, function: Callable, name: str) -> Callable:
        def call(*args):
            setattr(self, name, getattr(self, name) + 1)
            return function(*args)

        return call


def no_steps(*args):
    raise AssertionError("torch runs the steps")


@pytest.fixture
def native(monkeypatch) -> Iterator[Calls]:
    """Only native code runs scans, and does."""
    calls = Calls()
    monkeypatch.setattr(sweep, "call", calls.counted(sweep.call, "scans"))
    for module in (sweep, node):
        monkeypatch.setattr(module, "torch_steps", no_steps)
    yield calls
    assert calls.scans > 0


@pytest.fixture
def layer_of(native_of):
    def layer_of(cell: str) -> type[Layer]:
        module = native_of(cell)
        (found,) = verify._layers(module)
        return found

    return layer_of


# ---- Every cell ----


def described(text: str) -> Program:
    return cells.forms(text)["wrap" if cells.wrappers_of(text) else "infer"]


def trial(layer: type[Layer], program: Program, dtype: str, run: verify._Run) -> verify._Trial:
    """One whose answer is finite: a cell may have none for some inputs."""
    drawn = (verify._trial(layer, program, "auto", dtype, run, torch.device("cpu"), seed) for seed in range(SEEDS))
    return next(one for one in drawn if not verify._not_finite([one.exact]))


def errors(trials: list[verify._Trial], found: Callable[[verify._Trial], dict[str, Tensor]]) -> dict[str, float]:
    """By name over all trials that have it, for a number alone may be what rounding leaves of zero."""
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for one in trials:
        answer = found(one)
        for name, exact in one.exact.items():
            pairs[name].append((answer[name], exact))
    return {name: verify._error(*zip(*found, strict=True)) for name, found in pairs.items()}


def check(layer: type[Layer], text: str, dtype: str) -> None:
    program = described(text)
    runs = [run for *_, run in verify._cases(sys.modules[layer.__module__], layer, program, [dtype], "native", [])]
    trials = [trial(layer, program, dtype, run) for run in runs]
    wrong = {name: error for name, error in errors(trials, verify._Trial.found).items() if not error <= LIMITS[dtype]}
    if wrong:  # unless rounding does the same to the judge
        eps = torch.finfo(getattr(torch, dtype)).eps
        moved = [errors(trials, lambda one, seed=seed: one.moved(eps, seed)) for seed in range(3)]
        wrong = {name: error for name, error in wrong.items() if not error <= 5 * max(one[name] for one in moved)}
    assert not wrong


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        pytest.param(dtype, name, marks=() if (dtype, name) in QUICK else pytest.mark.slow)
        for dtype in LIMITS
        for name in EVERY
    ],
)
def test_every_cell(dtype, name, layer_of, native, monkeypatch):
    monkeypatch.setattr(node, "COPIED", 0 if dtype == "float64" else node.COPIED)
    text = EVERY[name]
    check(layer_of(text), text, dtype)


def test_a_state_without_a_gradient(layer_of, native):
    torch.manual_seed(0)
    layer, x = layer_of(AUTOMATON)(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    (y, *last), (z, *want) = flat(layer(x)), flat(layer.reference(x))
    assert_close([y, *last], [z, *want])
    leaves = [*layer.parameters()]
    assert_close(list(torch.autograd.grad(y.sum(), leaves)), list(torch.autograd.grad(z.sum(), leaves)))


# ---- The same in parts, and by several threads ----

T, B, I, H = 7, 3, 5, 8
OPTIONS = {
    "lstm": {},
    "lstm, projected": {"proj_size": 3},
    "gru_v3": {"reverse": True},
    "indrnn": {"num_layers": 2, "bidirectional": True},
    "slstm_flashrnn": {"heads": 2},
}
some_layers = pytest.mark.parametrize("name", OPTIONS)


def new_layer(layer_of, name: str, inputs: int = I, hidden: int = H, **others) -> Layer:
    torch.manual_seed(0)
    layer = layer_of(name.partition(",")[0])(inputs, hidden, **{"dtype": torch.float64} | OPTIONS[name] | others)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def answers(run: Callable, x: Tensor, leaves: list[Tensor], backward: Callable = torch.autograd.grad) -> list[Tensor]:
    """Outputs, last states and gradients of what a run gives of x, a leaf too."""
    x = x.detach().requires_grad_()
    found = flat(run(x))
    incoming = [torch.linspace(-1, 2, one.numel(), dtype=one.dtype).view(one.shape) for one in found]
    return [*found, *backward(found, [x, *leaves], incoming)]


def assert_close(got: list[Tensor], want: list[Tensor]) -> None:
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@some_layers
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("resets", [False, True], ids=["", "resets"])
def test_some_steps_at_a_time(name, lengths, resets, layer_of, native, monkeypatch):
    layer, time = new_layer(layer_of, name), 40
    x = torch.randn(time, B, I, dtype=torch.float64)
    options = {"resets": torch.rand(time, B) < 0.1} if resets else {}

    def run(x: Tensor) -> tuple:
        if not lengths:
            return layer(x, **options)
        pack = partial(pack_padded_sequence, lengths=torch.tensor([30, time, 1]), enforce_sorted=False)
        y, last = layer(pack(x), **{key: pack(flags) for key, flags in options.items()})
        return y.data, last

    want = answers(run, x, [*layer.parameters()])
    before = native.scans
    monkeypatch.setattr(node, "AT_ONCE", 64)
    assert_close(answers(run, x, [*layer.parameters()]), want)
    assert native.scans > 2 * before


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    number = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(number)


@some_layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bits_do_not_depend_on_threads_nor_on_the_batch(name, dtype, layer_of, native, threads):
    layer = new_layer(layer_of, name, 48, 64, dtype=dtype)
    x = torch.randn(20, 33, 48, dtype=dtype)
    found = []
    for number in (1, 2, 3, 5, 2):
        threads(number)
        found.append(answers(layer, x, [*layer.parameters()]))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    for row in (0, 17, 32):
        assert torch.equal(layer(x[:, row : row + 1])[0][:, 0], found[0][0][:, row])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in ("mingru", "indrnn", "rwkv4")] + [("mingru", torch.float64)],
    ids=str,
)
def test_bits_do_not_depend_on_threads_that_divide_units(name, dtype, layer_of, native, threads):
    """Of fewer sequences than threads each has some of the units: 64 or 128 of them, and the last one fewer."""
    width = 213
    torch.manual_seed(0)
    layer = layer_of(name)(width, width, dtype=dtype)
    x = torch.randn(700, 2, width, dtype=dtype)
    flags = torch.zeros(700, 2, dtype=torch.bool)
    flags[[0, 500, 501, 699], [0, 1, 1, 0]] = True
    first = tuple(torch.randn(1, 2, width, dtype=dtype, requires_grad=True) for _ in layer.cell.states)
    lengths = torch.tensor([700, 400])

    def run(x):
        padded = pack_padded_sequence(x, lengths)
        packed = layer(padded, None)
        begun = layer(x, None, resets=flags, reset_to=first if len(first) > 1 else first[0])
        return torch.cat([packed[0].data.flatten(), begun[0].flatten()]), packed[1]

    found = []
    for number in (1, 3, 4, 8):
        threads(number)
        found.append(answers(run, x, [*layer.parameters(), *first]))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    with torch.no_grad():
        threads(8)
        divided = layer(x[:, :1])[0]
        threads(1)
        assert torch.equal(divided, layer(x[:, :1])[0])


@pytest.mark.parametrize("name", ["layer_norm_lstm", "dreamer_gru"])
def test_a_few_rows_at_a_time(name, layer_of, native):
    """Where sums lie between stages, those take 8 rows, then 8, then the last three."""
    torch.manual_seed(0)
    layer, x = layer_of(name)(I, H, dtype=torch.float64), torch.randn(T, 19, I, dtype=torch.float64)
    leaves = [*layer.parameters()]
    assert_close(answers(layer, x, leaves), answers(layer.reference, x, leaves))


def test_bits_of_gradients_of_numbers(layer_of, native, threads):
    torch.manual_seed(0)
    layer, x = layer_of("fastrnn")(16, 256), torch.randn(3, 200, 16)
    found = []
    for number in (1, 2, 3):
        threads(number)
        found.append(answers(layer, x, [*layer.parameters()]))
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))


# ---- Memory ----


@some_layers
def test_tensors_that_lie_in_memory_in_other_ways(name, layer_of, native):
    layer = new_layer(layer_of, name)
    whole = torch.randn(2 * T, 2 * B, 2 * I, dtype=torch.float64)
    ways = {
        "turned": whole[:T, :B, :I].permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "with steps": whole[::2, ::2, ::2],
        "expanded": whole[:1, :1, :I].expand(T, B, I),
    }
    for x in ways.values():
        states = [(state + 1).repeat_interleave(2, -1)[..., ::2] for state in flat(layer.initial_state(B))]
        plain = [state.contiguous() for state in states]
        (y, *got), (z, *want) = flat(layer(x, as_state(states))), flat(layer(x.clone(), as_state(plain)))
        assert_close([y, *got], [z, *want])
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.set_(parameter.repeat_interleave(2, -1)[..., ::2])
    assert not any(parameter.is_contiguous() for parameter in layer.parameters())
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.set_(parameter.contiguous())
    assert_close(answers(layer, x, [*layer.parameters()]), answers(copied, x, [*copied.parameters()]))
    sums = [torch.autograd.grad(one(x)[0].sum(), [*one.parameters()]) for one in (layer, copied)]  # of steps of zero
    assert_close(*sums)


@some_layers
def test_tensors_whose_memory_has_the_other_sign(name, layer_of):
    """They are not plain, and go by the operator, which is that of the first module of the cell, be it without C."""
    layer, x = new_layer(layer_of, name), torch._neg_view(torch.randn(T, B, I, dtype=torch.float64))
    states = [torch._neg_view(state + 1) for state in flat(layer.initial_state(B))]
    plain = [state.neg() for state in map(torch._neg_view, states)]
    assert_close(flat(layer(x, as_state(states))), flat(layer(x.clone(), as_state(plain))))


def as_state(parts: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    return parts[0] if len(parts) == 1 else tuple(parts)


@some_layers
def test_what_is_written_into_results(name, layer_of, native, monkeypatch):
    """The state before each step lies in memory in front of the output."""
    monkeypatch.setattr(node, "COPIED", 0)
    layer, x = new_layer(layer_of, name), torch.randn(T, B, I, dtype=torch.float64)
    with torch.no_grad():
        y, *last = flat(layer(x))
        for place, one in enumerate((y, *last)):
            others = [other.clone() for n, other in enumerate((y, *last)) if n != place]
            one.fill_(7.0)
            assert_close([other for n, other in enumerate((y, *last)) if n != place], others)
    y, *last = flat(layer(x))
    torch.autograd.grad(torch.stack([(one * 2).sum() for one in last]).sum(), [*layer.parameters()])
    if layer.proj_size or layer.bidirectional:  # y is made of what the scan gave
        return
    y, *last = flat(layer(x))
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def copied(tensor: Tensor) -> Tensor:
    return tensor.clone()


def in_a_buffer(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    edge = torch.full((1000,), torch.nan, dtype=tensor.dtype)
    return torch.cat([edge, tensor.detach().flatten(), edge])[1000:-1000].view(tensor.shape)


def through_a_file(tensor: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    return torch.load(io.BytesIO(file.getvalue()))


@some_layers
@pytest.mark.parametrize("pack", [copied, in_a_buffer, through_a_file])
def test_hooks_of_saved_tensors(name, pack, layer_of, native):
    layer, x = new_layer(layer_of, name), torch.randn(T, B, I, dtype=torch.float64)
    want = answers(layer, x, [*layer.parameters()])
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        assert_close(answers(layer, x, [*layer.parameters()]), want)


@some_layers
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(name, reentrant, layer_of, native):
    layer, x = new_layer(layer_of, name), torch.randn(T, B, I, dtype=torch.float64)
    want = answers(layer, x, [*layer.parameters()])

    def backward(found: list[Tensor], leaves: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        torch.autograd.backward(found, incoming)
        return [leaf.grad for leaf in leaves]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return checkpoint(lambda x: tuple(flat(layer(x))), x, use_reentrant=reentrant)

    assert_close(answers(run, x, [*layer.parameters()], backward), want)


# ---- Derivatives ----


@some_layers
def test_second_derivatives_where_a_call_goes_on_from_another(name, layer_of):
    """Then the states that come in are made of the weights, and of x."""
    layer = new_layer(layer_of, name)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]

    def second(run: Callable) -> list[Tensor]:
        _, state = run(x)
        y, _ = run(2 * x, state)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        total = sum(one.square().sum() for one in first)
        return [total, *torch.autograd.grad(total, leaves)]

    got, want = second(layer), second(layer.reference)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want[0].detach()))


def test_gradcheck(layer_of, native):
    layer = new_layer(layer_of, "lstm", 2, 3)
    x, h = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2, 2), (1, 2, 3)))
    inputs = x, h, *layer.parameters()
    assert torch.autograd.gradcheck(lambda x, h, *_: flat(layer(x, (h, h))), inputs)


def test_gradgradcheck(layer_of):
    layer = new_layer(layer_of, "gru_v3", 2, 3)
    x, h = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2, 2), (1, 2, 3)))
    inputs = x, h, *layer.parameters()
    assert torch.autograd.gradgradcheck(lambda x, h, *_: flat(layer(x, h)), inputs, fast_mode=True)


@some_layers
def test_a_gradient_alone(name, layer_of, native):
    """Whatever is asked for, it is what it is beside all others."""
    layer, x = new_layer(layer_of, name), torch.randn(T, B, I, dtype=torch.float64)
    states = flat(layer.initial_state(B))
    every = [x, *states, *layer.parameters()]

    def gradients(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        for one in every:
            one.requires_grad_(any(one is leaf for leaf in leaves))
        return torch.autograd.grad(layer(x, as_state(states))[0].square().sum(), leaves)

    for leaf, want in zip(every, gradients(every), strict=True):
        assert_close(list(gradients([leaf])), [want])


@some_layers
def test_batches_of_gradients(name, layer_of):
    layer = new_layer(layer_of, name)
    x = torch.randn(T, B, I, dtype=torch.float64, requires_grad=True)
    y, leaves = layer(x)[0], [x, *layer.parameters()]
    incoming = torch.randn(3, *y.shape, dtype=torch.float64)
    got = torch.autograd.grad(y, leaves, incoming, is_grads_batched=True, retain_graph=True)
    want = [torch.autograd.grad(y, leaves, one, retain_graph=True) for one in incoming]
    assert_close(list(got), [torch.stack(each) for each in zip(*want, strict=True)])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("shape", [(0, B), (T, 0)], ids=str)
def test_products_of_no_rows(shape, heads):
    rows, pack = (torch.ones(*shape, width, dtype=torch.float64, requires_grad=True) for width in (4, 8))
    stack = torch.ones((8, 4) if heads == 1 else (4, 2, 2), dtype=torch.float64, requires_grad=True)
    found = linear.product(stack, rows)
    (d_stack,) = torch.autograd.grad(found, stack, pack)
    assert torch.equal(d_stack, torch.zeros_like(stack))


def whole_numbers(*shape: int, dtype: torch.dtype) -> Tensor:
    """What products of some thousand rows give without rounding."""
    return torch.randint(-4, 5, shape).to(dtype)


# On a side and the other of what the kernels take at once: 6, 8, 12 and 16 elements, 1, 2, 6 and 8 vectors of 4 to 16
# lanes, 64 rows.
WIDTHS = (1, 6, 8, 13, 16, 17, 40, 65, 130)
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 14, 16, 63, 65, 200)
some_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture
def products():
    """The native functions, without what lets torch's own stand in for them."""
    if not rnngen.runtime.native.has_products(torch.float64):
        pytest.skip("nothing compiles C")
    return rnngen.runtime.native


@some_types
@pytest.mark.parametrize("inputs", WIDTHS)
def test_products_of_any_size(inputs, dtype, products):
    torch.manual_seed(0)
    for outputs in WIDTHS:
        stack, bias = (whole_numbers(*shape, dtype=dtype) for shape in ((outputs, inputs), (outputs,)))
        for count in ROWS:
            rows, pack = (whole_numbers(1, count, width, dtype=dtype) for width in (inputs, outputs))
            assert torch.equal(products.product(stack, rows, bias), rows @ stack.T + bias)
            assert torch.equal(products.product_transposed(stack, pack, torch.empty_like(rows)), pack @ stack)
            total, want, whole = (torch.empty(outputs, dtype=dtype), pack[0].T @ rows[0], pack.sum((0, 1)))
            found = products.outer(pack, rows, stack, total=total)
            assert torch.equal(found, want)
            assert torch.equal(total, whole)
            assert products.outer(pack, rows, stack, more=found, total=total) is found
            assert torch.equal(found, 2 * want)
            assert torch.equal(total, 2 * whole)


@some_types
@pytest.mark.parametrize("own", WIDTHS)
def test_products_of_heads(own, dtype, products):
    torch.manual_seed(0)
    count, heads = 2, 3
    stack = whole_numbers(count * heads, own, own, dtype=dtype)
    for steps in (1, 65):
        rows, pack = (whole_numbers(steps, 2, k * heads * own, dtype=dtype) for k in (1, count))
        by_head = pack.unflatten(-1, (count, heads, own)), rows.unflatten(-1, (heads, own))
        blocks, total = stack.unflatten(0, (count, heads)), pack.new_empty(pack.shape[-1])
        assert torch.equal(
            products.product(stack, rows, None), torch.einsum("knij,tbnj->tbkni", blocks, by_head[1]).flatten(2)
        )
        assert torch.equal(
            products.product_transposed(stack, pack, torch.empty_like(rows)),
            torch.einsum("knij,tbkni->tbnj", blocks, by_head[0]).flatten(2),
        )
        found = products.outer(pack, rows, stack, total=total)
        assert torch.equal(found, torch.einsum("tbkni,tbnj->knij", *by_head).flatten(0, 1))
        assert torch.equal(total, pack.sum((0, 1)))


@some_types
@pytest.mark.parametrize("heads", [1, 4])
def test_bits_of_products_do_not_depend_on_threads(heads, dtype, products, threads):
    torch.manual_seed(0)
    rows, pack = (torch.randn(40, 50, width, dtype=dtype) for width in (64, 192))
    stack = torch.randn((192, 64) if heads == 1 else (3 * heads, 16, 16), dtype=dtype)
    found = []
    for number in (1, 2, 3, 7):
        threads(number)
        total = torch.empty(192, dtype=dtype)
        found.append((products.product(stack, rows, None), products.outer(pack, rows, stack, total=total), total))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


@some_types
def test_bits_of_a_row_do_not_depend_on_those_beside_it(dtype, products):
    torch.manual_seed(0)
    rows = torch.randn(1, max(ROWS), 33, dtype=dtype)
    for outputs in WIDTHS:
        stack, bias = torch.randn(outputs, 33, dtype=dtype), torch.randn(outputs, dtype=dtype)
        whole = products.product(stack, rows, bias)
        for count in ROWS:
            assert torch.equal(products.product(stack, rows[:, :count], bias), whole[:, :count])


def test_a_bias_of_a_product_has_its_gradient_without_that_of_the_matrices(products):
    """With both, one function gives both."""
    stack, bias, rows = (
        whole_numbers(*shape, dtype=torch.float64).requires_grad_() for shape in ((6, 4), (6,), (T, B, 4))
    )
    for asked in ([bias], [stack, bias], [stack, rows, bias]):
        found = torch.autograd.grad(linear.product(stack, rows, bias).square().sum(), asked)
        want = torch.autograd.grad((rows @ stack.T + bias).square().sum(), asked)
        assert all(map(torch.equal, found, want))


def test_forward_mode_is_refused(layer_of):
    from torch.autograd import forward_ad

    layer, x = new_layer(layer_of, "lstm"), torch.randn(T, B, I, dtype=torch.float64)
    with torch.no_grad(), forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        layer(forward_ad.make_dual(x, x))


# ---- Where some of it is missing ----


@some_layers
@pytest.mark.parametrize("missing", ["products", "adjoint"])
def test_without_some_of_the_code(name, missing, layer_of, monkeypatch):
    """As where a compiler fails for one file alone, or RNNGEN_NATIVE is set to 0 between two calls."""
    layer, x = new_layer(layer_of, name), torch.randn(T, B, I, dtype=torch.float64)
    want = answers(layer, x, [*layer.parameters()])
    if missing == "products":
        monkeypatch.setattr(rnngen.runtime.native, "_products", lambda dtype: None)
    else:
        monkeypatch.setitem(layer.cell.scan.adjoint._functions, torch.float64, None)
    assert_close(answers(layer, x, [*layer.parameters()]), want)


def test_a_call_out_of_native_code_s_reach(layer_of, monkeypatch):
    """By a graph, a subclass, another type, autocast, or where nothing has a batch: torch runs them as it did."""
    layer, x = new_layer(layer_of, "lstm"), torch.randn(T, B, I, dtype=torch.float64)
    want = answers(layer, x, [*layer.parameters()])

    class Watched(Tensor):
        pass

    monkeypatch.setattr(node, "run", no_steps)
    y, _ = layer(x.as_subclass(Watched))
    assert type(y) is Watched
    torch.testing.assert_close(y.as_subclass(Tensor), want[0], rtol=1e-11, atol=1e-11)
    assert_close(answers(torch.compile(layer, backend="eager", fullgraph=True), x, [*layer.parameters()]), want)
    assert layer(x[:, :0])[0].shape == (T, 0, H)
    half = layer.to(torch.bfloat16)
    assert half(x.to(torch.bfloat16))[0].dtype == torch.bfloat16
    single = layer.to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert single(x.float())[0].dtype == torch.bfloat16


# ---- Sanitizers ----

AWKWARD = ("gru_v3", "lstm", "mclstm", "packed", "slstm_flashrnn")


@pytest.mark.parametrize("names", [AWKWARD, pytest.param((), marks=pytest.mark.slow)], ids=["some", "all"])
def test_memory_and_what_c_leaves_undefined(names, tmp_path):
    environment = sanitized.environment(tmp_path)
    if environment is None:
        pytest.skip("there is no gcc with sanitizers")
    order = [sys.executable, sanitized.__file__, *names]
    done = subprocess.run(order, env=environment, capture_output=True, text=True, timeout=3600)
    assert (done.stdout, done.returncode) == ("clean\n", 0), done.stderr[-3000:]


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float64])
def test_flags_of_another_type(kind, layer_of, native):
    """C reads 32 bits of each."""
    layer = new_layer(layer_of, "lstm")
    torch.manual_seed(1)
    stream, states = torch.randn(T, B, 4 * H, dtype=torch.float64), [torch.randn(B, H, dtype=torch.float64)] * 2
    valid, resets = (torch.randint(2, (steps, B, 1), dtype=torch.int32) for steps in (T, T + 1))
    scan_of, weights = layer.cell.scan, [layer.weight_hh_l0.detach()]
    want = scan_of([stream], states, weights, valid, resets=resets, first=states)
    flags = valid.to(kind), resets.to(kind)
    assert_close(flat(scan_of([stream], states, weights, flags[0], resets=flags[1], first=states)), flat(want))
    # What its operator does: the one that is registered may be of a module without C that was imported before.
    operator = partial(scan_of._forward, stream, *states, *weights)
    begin, rest = torch.cat(states, -1), ("forwards", True, True, "auto")
    assert_close([*operator(*flags, begin, *rest)], [*operator(valid, resets, begin, *rest)])


@pytest.fixture
def no_rooms(monkeypatch):
    """As in a thread that has called nothing yet."""
    monkeypatch.setattr(rnngen.runtime.native, "_room", rnngen.runtime.native._Room())


def test_memory_is_on_the_cpu_whatever_the_default_device(layer_of, native, no_rooms):
    layer, x = new_layer(layer_of, "lstm", dtype=torch.float32), torch.randn(T, B, I)
    packed = pack_padded_sequence(x, torch.tensor([T, *[1] * (B - 1)]))
    with torch.device("meta"):
        found = [*flat(layer(x)), *layer(packed)[1]]
    assert_close(found, [*flat(layer(x)), *layer(packed)[1]])


def test_a_backward_pass_in_inference_mode(layer_of, native, no_rooms):
    """What it leaves behind for later calls can be written into outside of that mode."""
    layer, x = new_layer(layer_of, "lstm"), torch.randn(T, B, I, dtype=torch.float64)
    last = layer(x)[1][1].sum()  # the output has no gradient: zeros stand for it
    with torch.inference_mode():
        last.backward()
    layer.zero_grad()  # whose gradients are torch's own, and of that mode
    layer(x)[1][1].sum().backward()
