"""torch's own tests of its modules, asked of ours: its samples, its errors, and what its test suite does with them.

The samples are those of torch.testing._internal.common_modules; what they leave out is in `OPTIONS` and `INPUTS`, and
the errors that torch raises beyond the ones listed there are in `MISTAKES`. The judge is the class of torch.nn itself.
"""

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnngen.runtime.language

NAMES = ("LSTM", "GRU", "RNN")
# In float32 sums are ordered differently; torch's samples have inputs up to 9, of which the last place is near 1e-6.
EXACT = {torch.float64: {"rtol": 1e-12, "atol": 1e-12}, torch.float32: {"rtol": 1e-5, "atol": 4e-6}}
I, H, T, B = 3, 4, 5, 3

# It is torch's own class that warns.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

every_class = pytest.mark.parametrize("name", NAMES)
every_dtype = pytest.mark.parametrize("dtype", EXACT, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def setup_module():
    assert not rnngen.runtime.language.interpreting()


class Pairs:
    """Ours and torch's class of one name, made with the same arguments and the same weights."""

    def __init__(self, layer_of: Callable[[str], type]):
        self.layer_of = layer_of

    def ours(self, name: str, *args, nonlinearity: str = "tanh", **options) -> nn.Module:
        """Of RNN the nonlinearity chooses the cell."""
        cell = "rnn_relu" if nonlinearity == "relu" else name.lower()
        return self.layer_of(cell)(*args, **options)

    def theirs(self, name: str, *args, **options) -> nn.Module:
        return getattr(nn, name)(*args, **options)

    def __call__(self, name: str, *args, **options) -> tuple[nn.Module, nn.Module]:
        """Both, after a state dict has gone strictly one way and back."""
        torch.manual_seed(0)
        ours, theirs = self.ours(name, *args, **options), self.theirs(name, *args, **options)
        drawn = copy.deepcopy(theirs.state_dict())
        assert list(ours.state_dict()) == list(drawn)
        ours.load_state_dict(drawn, strict=True)
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.zero_()
        theirs.load_state_dict(ours.state_dict(), strict=True)
        assert all(torch.equal(value, drawn[key]) for key, value in theirs.state_dict().items())
        return ours, theirs


@pytest.fixture(scope="session")
def pairs(layer_of) -> Pairs:
    return Pairs(layer_of)


# torch's samples.


@cache
def common_modules():
    """The module of torch's samples. Importing it freezes the flags of torch.backends, which other tests may set."""
    pytest.importorskip("expecttest", reason="expecttest, of the extra test, is not installed")
    with mock.patch.object(torch.backends, "disable_global_flags"):
        import torch.testing._internal.common_modules as found
    return found


def info(name: str):
    """torch's entry for the class of that name."""
    (found,) = [entry for entry in common_modules().module_db if entry.module_cls is getattr(nn, name)]
    return found


def samples(name: str, dtype: torch.dtype, training: bool = True, packed: bool = True) -> list:
    """All of torch's for a class, and those with packed sequences, which torch keeps for its tests of devices."""
    torch.manual_seed(0)
    options = {"device": "cpu", "dtype": dtype, "requires_grad": True, "training": training}
    if packed and name in ("RNN", "GRU"):
        options["with_packed_sequence"] = True
    entry = info(name)
    return list(entry.module_inputs_func(entry, **options))


def made(make: Callable, name: str, sample, dtype: torch.dtype, **options):
    """A module, or a pair, by the constructor's arguments of a sample."""
    given = sample.constructor_input
    return make(name, *given.args, dtype=dtype, **given.kwargs, **options)


@contextmanager
def naming(sample) -> Iterator[None]:
    """Whatever fails inside says with which sample."""
    try:
        yield
    except BaseException as error:
        given, call = sample.constructor_input, sample.forward_input
        shapes = [tuple(tensor.shape) for tensor in flat(call.args)] if call else []
        error.add_note(f"in the sample {given.args} {given.kwargs}, called with {shapes}")
        raise


def is_packed(sample) -> bool:
    return isinstance(sample.forward_input.args[0], PackedSequence)


# Comparing.


def flat(results) -> list[Tensor]:
    """The tensors of nested tuples; of a packed sequence its data."""
    if isinstance(results, PackedSequence):
        return [results.data]
    if results is None:
        return []
    return [results] if isinstance(results, Tensor) else [t for part in results for t in flat(part)]


def total(results) -> Tensor:
    """A sum in which every element has a weight of its own."""
    return sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in flat(results))


def gradients(results, tensors) -> list[Tensor]:
    return list(torch.autograd.grad(total(results), list(tensors)))


def assert_equal(got, want, dtype: torch.dtype) -> None:
    """The same structure and, up to rounding, the same numbers."""
    assert type(got) is type(want)
    if isinstance(got, PackedSequence):
        assert torch.equal(got.batch_sizes, want.batch_sizes)
        for one, other in zip(got[2:], want[2:], strict=True):
            assert (one is None) == (other is None) and (one is None or torch.equal(one, other))
    if isinstance(got, tuple) and not isinstance(got, PackedSequence):
        for one, other in zip(got, want, strict=True):
            assert_equal(one, other, dtype)
    else:
        for one, other in zip(flat(got), flat(want), strict=True):
            torch.testing.assert_close(one, other, **EXACT[dtype])


def assert_pair(ours: nn.Module, theirs: nn.Module, args: tuple, dtype: torch.dtype) -> None:
    """Outputs, states and every gradient, each drawing dropout's masks from the same seed."""
    results = []
    for module in (theirs, ours):
        torch.manual_seed(1)
        results.append(module(*args))
    want, got = results
    assert_equal(got, want, dtype)
    leaves = flat(args)
    assert all(leaf.requires_grad for leaf in leaves)
    names = [*(f"input {number}" for number, _ in enumerate(leaves)), *dict(theirs.named_parameters())]
    found = gradients(got, [*leaves, *ours.parameters()]), gradients(want, [*leaves, *theirs.parameters()])
    for key, one, other in zip(names, *found, strict=True):
        torch.testing.assert_close(one, other, **EXACT[dtype], msg=f"gradient of {key}: {{}}".format)


# torch's samples against torch.


@every_mode
@every_dtype
@every_class
def test_samples(name, pairs, dtype, training):
    """Against torch's class, and against the sample's own reference, which is for tensors alone."""
    for sample in samples(name, dtype, training):
        with naming(sample):
            ours, theirs = made(pairs, name, sample, dtype)
            ours.train(training)
            theirs.train(training)
            args = sample.forward_input.args
            assert not sample.forward_input.kwargs
            assert_pair(ours, theirs, args, dtype)
            if not is_packed(sample):
                assert_equal(ours(*args), sample.reference_fn(ours, *args), dtype)


def test_there_are_samples():
    """torch may change them: that all of these were compared is not to be lost unnoticed."""
    count = {name: len(samples(name, torch.float64)) for name in NAMES}
    assert count["LSTM"] >= 32 and count["GRU"] >= 32 and count["RNN"] >= 64
    assert all(sum(map(is_packed, samples(name, torch.float64))) >= 16 for name in ("GRU", "RNN"))


# What torch's test suite does with every module.


@every_class
def test_repr(name, pairs):
    for sample in samples(name, torch.float32):
        with naming(sample):
            ours, theirs = made(pairs, name, sample, torch.float32)
            said = repr(ours)
            assert said == str(ours) and said.startswith(f"{type(ours).__name__}(")
            # What torch's says beside the class is a value that differs from its default.
            for part in re.findall(r"(\w+=\w+)", repr(theirs)):
                assert part in said


@every_dtype
@every_class
def test_pickle_and_deepcopy(name, pairs, dtype):
    for sample in samples(name, dtype):
        with naming(sample):
            ours, _ = made(pairs, name, sample, dtype)
            args = sample.forward_input.args
            want = ours(*args)
            file = io.BytesIO()
            torch.save(ours, file)
            file.seek(0)
            copies = pickle.loads(pickle.dumps(ours)), torch.load(file, weights_only=False), copy.deepcopy(ours)
            for other in copies:
                assert type(other) is type(ours) and repr(other) == repr(ours)
                assert_equal(other(*args), want, dtype)
                assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in ours.parameters()}


@contextmanager
def swapping(swapped: bool) -> Iterator[None]:
    """Whether a module's conversion exchanges the insides of its parameters, or puts new data into them."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swapped)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("swapped", [False, True], ids=["new data", "swapped"])
@every_class
def test_to(name, pairs, swapped):
    """To another type, to a device without memory, and back. torch's own class cannot be swapped."""
    for sample in samples(name, torch.float64):
        with naming(sample):
            ours, theirs = made(pairs, name, sample, torch.float32)
            kept = list(ours.parameters())
            theirs.to(torch.float64)
            with swapping(swapped):
                assert ours.to(torch.float64) is ours
            assert {parameter.dtype for parameter in ours.parameters()} == {torch.float64}
            assert all(one is other for one, other in zip(kept, ours.parameters(), strict=True))
            assert_pair(ours, theirs, sample.forward_input.args, torch.float64)
            with swapping(swapped):
                assert {parameter.dtype for parameter in ours.float().parameters()} == {torch.float32}
                assert all(parameter.is_meta for parameter in ours.to("meta").parameters())
                ours.to_empty(device="cpu").double()
                ours.load_state_dict(theirs.state_dict())
            assert_pair(ours, theirs, sample.forward_input.args, torch.float64)


@every_class
def test_factory_keywords(name, pairs):
    """device and dtype reach every parameter, and torch.device as a context does."""
    for sample in samples(name, torch.float64):
        with naming(sample):
            given = sample.constructor_input
            drawn = pairs.ours(name, *given.args, **given.kwargs)
            assert {(p.device.type, p.dtype) for p in drawn.parameters()} == {("cpu", torch.get_default_dtype())}
            made_there = [made(pairs.ours, name, sample, torch.float64, device="meta")]
            with torch.device("meta"):
                made_there.append(made(pairs.ours, name, sample, torch.float64))
            for ours in made_there:
                assert {(p.device.type, p.dtype) for p in ours.parameters()} == {("meta", torch.float64)}
                args = on_meta(sample.forward_input.args)
                if not is_packed(sample):  # a packed sequence has its lengths on the CPU
                    want = made(pairs.theirs, name, sample, torch.float64)(*sample.forward_input.args)
                    got = ours(*args)
                    assert [(t.is_meta, t.shape) for t in flat(got)] == [(True, t.shape) for t in flat(want)]


def on_meta(value):
    if isinstance(value, Tensor):
        return value.to("meta")
    return tuple(on_meta(part) for part in value) if isinstance(value, tuple) else value


@every_class
def test_strides(name, pairs):
    """Inputs, states and gradients that are every other column of something wider."""
    for sample in samples(name, torch.float64, packed=False):
        with naming(sample):
            ours, _ = made(pairs, name, sample, torch.float64)
            args = sample.forward_input.args
            want = ours(*args)
            directions = [torch.randn_like(result) for result in flat(want)]
            wanted = torch.autograd.grad(flat(want), [*flat(args), *ours.parameters()], directions)
            sparse = every_other(args)
            assert not any(tensor.is_contiguous() for tensor in flat(sparse))
            got = ours(*sparse)
            assert_equal(got, want, torch.float64)
            for seeds in (directions, [every_other(direction) for direction in directions]):
                leaves = [*flat(sparse), *ours.parameters()]
                found = torch.autograd.grad(flat(got), leaves, seeds, retain_graph=True)
                for one, other in zip(found, wanted, strict=True):
                    torch.testing.assert_close(one, other, **EXACT[torch.float64])


def every_other(value):
    """The same numbers, with a stride of 2."""
    if isinstance(value, Tensor):
        wide = value.detach().repeat_interleave(2, -1)
        return wide[..., ::2].requires_grad_(value.requires_grad)
    return tuple(every_other(part) for part in value)


# One layer and two, one way and both, with and without a bias, projection, state and packing: a few of many.
FEW = {"LSTM": (3, 12, 31), "GRU": (3, 13, 30), "RNN": (3, 30, 61)}


@every_class
def test_derivatives(name, pairs):
    """Of the first and the second order, by finite differences; and of either a batch of gradients at a time."""
    everything = samples(name, torch.float64)
    for number in FEW[name]:
        sample = everything[number]
        with naming(sample):
            ours, _ = made(pairs, name, sample, torch.float64)
            keys = [key for key, _ in ours.named_parameters()]
            given, *rest = sample.forward_input.args
            leaves = [*flat(given), *flat(rest)]

            def function(*tensors, ours=ours, keys=keys, given=given, rest=rest):
                data, *others = tensors
                states, weights = others[: len(others) - len(keys)], others[len(others) - len(keys) :]
                x = given._replace(data=data) if isinstance(given, PackedSequence) else data
                hx = (tuple(states) if isinstance(rest[0], tuple) else states[0],) if rest else ()
                return tuple(flat(functional_call(ours, dict(zip(keys, weights, strict=True)), (x, *hx))))

            inputs = (*leaves, *ours.parameters())
            assert torch.autograd.gradcheck(function, inputs, fast_mode=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True, check_batched_grad=True)


@every_class
def test_modes(name, pairs):
    """train and eval differ by dropout between the layers, and by nothing else."""
    options = {"num_layers": 2, "dtype": torch.float64}
    plain, _ = pairs(name, I, H, **options)
    with_dropout, _ = pairs(name, I, H, dropout=0.5, **options)
    with_dropout.load_state_dict(plain.state_dict())
    x = random(T, B, I)
    assert with_dropout.training
    assert not torch.equal(with_dropout(x)[0], with_dropout(x)[0])
    assert with_dropout.eval() is with_dropout and not with_dropout.training
    want = plain(x)
    assert_equal(with_dropout(x), want, torch.float64)
    assert_equal(plain.eval()(x), want, torch.float64)


@every_class
def test_zero_grad(name, pairs):
    for sample in samples(name, torch.float64):
        with naming(sample):
            ours, _ = made(pairs, name, sample, torch.float64)
            total(ours(*sample.forward_input.args)).backward()
            assert any(parameter.grad.any() for parameter in ours.parameters())
            ours.zero_grad(set_to_none=False)
            assert not any(parameter.grad.any() for parameter in ours.parameters())
            ours.zero_grad()
            assert all(parameter.grad is None for parameter in ours.parameters())


# Cells: one step.

CELLS = {"LSTMCell": "LSTM", "GRUCell": "GRU", "RNNCell": "RNN"}


@every_dtype
@pytest.mark.parametrize("name", CELLS)
def test_samples_of_cells(name, pairs, dtype):
    """`step` is the cell of torch.nn, with its reference as well."""
    for sample in samples(name, dtype):
        with naming(sample):
            theirs = made(pairs.theirs, name, sample, dtype)
            ours = made(pairs.ours, CELLS[name], sample, dtype)
            ours.load_state_dict({f"{key}_l0": value for key, value in theirs.state_dict().items()})
            args = sample.forward_input.args
            want = theirs(*args)
            y, state = ours.step(*args)
            assert_equal(y, flat(want)[0], dtype)
            for got, wanted in zip(flat(state), flat(want), strict=True):
                assert_equal(got.view_as(wanted), wanted, dtype)
            assert_equal(want, sample.reference_fn(theirs, *args), dtype)
            leaves = flat(args)
            wanted = gradients(want, [*leaves, *theirs.parameters()])
            found = gradients(state, [*leaves, *ours.parameters()])
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, **EXACT[dtype])


def error_inputs(name: str, dtype: torch.dtype) -> list:
    options = {"device": "cpu", "dtype": dtype, "requires_grad": False, "training": True}
    entry = info(name)
    found = list(entry.module_error_inputs_func(entry, **options))
    assert found
    return found


@pytest.mark.parametrize("name", CELLS)
def test_errors_of_cells(name, pairs):
    """What a cell takes for a mistake `step` does too, and names the sizes; its errors are those of a layer."""
    for wrong in error_inputs(name, torch.float32):
        sample = wrong.module_error_input
        with naming(sample):
            assert wrong.error_on is common_modules().ModuleErrorEnum.FORWARD_ERROR
            theirs = pairs.theirs(name, *sample.constructor_input.args)
            ours = pairs.ours(CELLS[name], *sample.constructor_input.args[:2])
            args = sample.forward_input.args
            with pytest.raises(wrong.error_type, match=wrong.error_regex) as error:
                theirs(*args)
            with pytest.raises(RuntimeError) as our_error:
                ours.step(*args)
            sizes = re.findall(r"(?<![\w\[])\d+", str(error.value))
            assert_says(our_error, ours, sizes if error.type is RuntimeError else sizes[-1:])


# Samples of our own: what torch's leave out.

OPTIONS = {
    "one layer": {},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "both ways": {"bidirectional": True},
    "three layers": {"num_layers": 3},
    "three layers both ways": {"num_layers": 3, "bidirectional": True, "bias": False},
    "dropout": {"num_layers": 3, "dropout": 0.4},
    "dropout of everything": {"num_layers": 2, "dropout": 1.0, "bidirectional": True},
    "dropout both ways, batch first": {"num_layers": 2, "dropout": 0.4, "bidirectional": True, "batch_first": True},
}
PROJECTED = {
    "projected": {"proj_size": 2},
    "projected both ways": {"proj_size": 2, "bidirectional": True},
    "projected, three layers": {"proj_size": 3, "num_layers": 3, "dropout": 0.4},
    "projected, all": {"proj_size": 2, "num_layers": 3, "dropout": 0.4, "bidirectional": True, "batch_first": True},
    "projected to one, no bias": {"proj_size": 1, "num_layers": 2, "bias": False},
}
KINDS = {"LSTM": {}, "GRU": {}, "RNN": {"nonlinearity": "tanh"}, "RNN with relu": {"nonlinearity": "relu"}}
LENGTHS = {"in order": [5, 3, 3, 1], "in any order": [2, 5, 1, 3], "all of one length": [4, 4], "one sequence": [3]}
INPUTS = ["batch", "no batch", "in order", "in any order"]
RARE_INPUTS = ["batch of one", "one step", "all of one length", "one sequence"]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()


def packed(lengths: list[int], dtype: torch.dtype = torch.float64, features: int = I) -> PackedSequence:
    """Its data is a leaf. Lengths that fall keep their order, as torch has it with enforce_sorted=True."""
    falling = lengths == sorted(lengths, reverse=True)
    padded = random(max(lengths), len(lengths), features, dtype=dtype).detach()
    found = pack_padded_sequence(padded, torch.tensor(lengths), enforce_sorted=falling)
    assert (found.sorted_indices is None) == falling
    found.data.requires_grad_()
    return found


def make_input(
    kind: str, options: dict, dtype: torch.dtype = torch.float64
) -> tuple[Tensor | PackedSequence, int | None]:
    """An input and its batch, which is None for an input without one."""
    if kind in LENGTHS:
        return packed(LENGTHS[kind], dtype), len(LENGTHS[kind])
    if kind == "no batch":
        return random(T, I, dtype=dtype), None
    time, batch = {"batch": (T, B), "batch of one": (T, 1), "one step": (1, B)}[kind]
    shape = (batch, time, I) if options.get("batch_first") else (time, batch, I)
    return random(*shape, dtype=dtype), batch


def make_state(name: str, options: dict, batch: int | None, dtype: torch.dtype = torch.float64):
    """A state for every layer and direction, of two widths where the output is projected."""
    rows = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    shape = (rows,) if batch is None else (rows, batch)
    h = random(*shape, options.get("proj_size") or H, dtype=dtype, seed=2)
    return (h, random(*shape, H, dtype=dtype, seed=3)) if name == "LSTM" else h


class Reference(nn.Module):
    """A layer by its reference."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args):
        return self.layer.reference(*args)


def all_options() -> list:
    """Each class with each of its options."""
    found = [(kind, words) for kind in KINDS for words in OPTIONS] + [("LSTM", words) for words in PROJECTED]
    return [pytest.param(*pair, id=", ".join(pair)) for pair in found]


def check_options(pairs: Pairs, name: str, options: dict, kind: str, dtype: torch.dtype = torch.float64) -> None:
    """From zeros and from a state, and without dropout too where there is some.

    torch draws dropout's mask for the steps that a packed sequence has, ours for those of the longest, so that with
    dropout the judge of a packed sequence is our own reference.
    """
    ours, theirs = pairs(name, I, H, dtype=dtype, **options)
    x, batch = make_input(kind, options, dtype)
    random_masks = 0 < options.get("dropout", 0) < 1
    for training in (True, False) if options.get("dropout") else (True,):
        ours.train(training)
        theirs.train(training)
        by_torch = not (training and random_masks and kind in LENGTHS)
        for args in ((x,), (x, make_state(name, options, batch, dtype))):
            assert_pair(ours, theirs if by_torch else Reference(ours), args, dtype)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("which", "words"), all_options())
def test_options(which, words, kind, pairs):
    check_options(pairs, which.split()[0], KINDS[which] | (OPTIONS | PROJECTED)[words], kind)


@pytest.mark.parametrize("kind", RARE_INPUTS)
@pytest.mark.parametrize("which", KINDS)
def test_sizes_of_one(which, kind, pairs):
    check_options(pairs, which.split()[0], KINDS[which] | OPTIONS["three layers both ways"], kind)


@pytest.mark.parametrize(("which", "words"), all_options())
def test_options_in_float32(which, words, pairs):
    options = KINDS[which] | (OPTIONS | PROJECTED)[words]
    check_options(pairs, which.split()[0], options, "in any order", torch.float32)


@every_class
def test_arguments_by_position(name, pairs):
    """In torch's order. RNN of torch has its nonlinearity in the middle, so of it only the first three."""
    positional = (I, H, 2) if name == "RNN" else (I, H, 2, False, True, 0.25, True)
    ours, theirs = pairs(name, *positional, dtype=torch.float64)
    x = random(B, T, I)
    assert_pair(ours, theirs, (x,), torch.float64)
    for key in (
        "input_size",
        "hidden_size",
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "proj_size",
    ):
        assert getattr(ours, key) == getattr(theirs, key)
    for one, other in zip(ours.all_weights, theirs.all_weights, strict=True):
        assert [tuple(weight.shape) for weight in one] == [tuple(weight.shape) for weight in other]
    assert ours.flatten_parameters() is None


@every_class
def test_words_of_torch(name, pairs):
    """input and hx are the names of the arguments."""
    ours, theirs = pairs(name, I, H, num_layers=2, dtype=torch.float64)
    x, hx = random(T, B, I), make_state(name, {"num_layers": 2}, B)
    assert_equal(ours(input=x, hx=hx), theirs(input=x, hx=hx), torch.float64)


# Errors.


@every_dtype
@every_class
def test_error_inputs(name, pairs, dtype):
    for wrong in error_inputs(name, dtype):
        sample = wrong.module_error_input
        given = sample.constructor_input
        with naming(sample):
            expected = partial(pytest.raises, wrong.error_type, match=wrong.error_regex)
            if wrong.error_on is common_modules().ModuleErrorEnum.CONSTRUCTION_ERROR:
                with expected():
                    pairs.ours(name, *given.args, **given.kwargs)
            else:
                ours = pairs.ours(name, *given.args, **given.kwargs)
                with expected() as error:
                    ours(*sample.forward_input.args)
                assert_says(error, ours)


def assert_says(error, module: nn.Module, words=()) -> None:
    """The message names the class, and all the words."""
    message = str(error.value)
    assert type(module).__name__ in message
    missing = [word for word in words if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message)]
    assert not missing, message


def state(name: str, h: tuple[int, ...], c: tuple[int, ...] | None = None, dtype: torch.dtype = torch.float64):
    """Of these shapes; c, for an LSTM, has the shape of h if none is given."""
    return (random(*h, dtype=dtype), random(*(c or h), dtype=dtype)) if name == "LSTM" else random(*h, dtype=dtype)


TWICE = {"num_layers": 2, "bidirectional": True}
# By what is wrong: options, the arguments of a call, and what the message has beside the name of the class.
MISTAKES: dict[str, tuple[dict, Callable[[str], tuple], list[str]]] = {
    "input of four dimensions": ({}, lambda _: (random(1, T, B, I),), ["4D"]),
    "input of one dimension": ({}, lambda _: (random(I),), ["1D"]),
    "input too wide": ({}, lambda _: (random(T, B, I + 1),), [f"{I}", f"{I + 1}"]),
    "input too narrow, no batch": ({}, lambda _: (random(T, I - 1),), [f"{I}", f"{I - 1}"]),
    "input too wide, batch first": ({"batch_first": True}, lambda _: (random(B, T, I + 2),), [f"{I}", f"{I + 2}"]),
    "input too wide, packed": ({}, lambda _: (packed([3, 2], features=I + 1),), [f"{I}", f"{I + 1}"]),
    "input of three dimensions, packed": (
        {},
        lambda _: (PackedSequence(random(5, 1, I), torch.tensor([2, 2, 1])),),
        ["2D", "3D"],
    ),
    "input of no length": ({}, lambda _: (random(0, B, I),), ["length"]),
    "input of no length, batch first": ({"batch_first": True}, lambda _: (random(B, 0, I),), ["length"]),
    "input of no length, no batch": ({}, lambda _: (random(0, I),), ["length"]),
    "input of another type": (
        {},
        lambda _: (random(T, B, I, dtype=torch.float32),),
        ["torch.float32", "torch.float64"],
    ),
    "input of another type, packed": (
        {},
        lambda _: (packed([3, 2], torch.float32),),
        ["torch.float32", "torch.float64"],
    ),
    "state without a batch": ({}, lambda n: (random(T, B, I), state(n, (1, H))), [f"(1, {B}, {H})", f"(1, {H})"]),
    "state with a batch, input without": (
        {},
        lambda n: (random(T, I), state(n, (1, 1, H))),
        [f"(1, {H})", f"(1, 1, {H})"],
    ),
    "state of four dimensions": ({}, lambda n: (random(T, B, I), state(n, (1, 1, B, H))), [f"(1, {B}, {H})"]),
    "state of another batch": (
        {},
        lambda n: (random(T, B, I), state(n, (1, B + 1, H))),
        [f"(1, {B}, {H})", f"(1, {B + 1}, {H})"],
    ),
    "state of a batch of one": (
        {},
        lambda n: (random(T, B, I), state(n, (1, 1, H))),
        [f"(1, {B}, {H})", f"(1, 1, {H})"],
    ),
    "state of another batch, batch first": (
        {"batch_first": True},
        lambda n: (random(B, T, I), state(n, (1, T, H))),
        [f"(1, {B}, {H})", f"(1, {T}, {H})"],
    ),
    "state of another batch, packed": (
        {},
        lambda n: (packed([3, 2]), state(n, (1, B, H))),
        [f"(1, 2, {H})", f"(1, {B}, {H})"],
    ),
    "state without a batch, packed": ({}, lambda n: (packed([3, 2]), state(n, (1, H))), [f"(1, 2, {H})", f"(1, {H})"]),
    "state of too few layers": (
        TWICE,
        lambda n: (random(T, B, I), state(n, (2, B, H))),
        [f"(4, {B}, {H})", f"(2, {B}, {H})"],
    ),
    "state of too many layers": (
        {},
        lambda n: (random(T, B, I), state(n, (2, B, H))),
        [f"(1, {B}, {H})", f"(2, {B}, {H})"],
    ),
    "state of too few layers, no batch": (
        TWICE,
        lambda n: (random(T, I), state(n, (2, H))),
        [f"(4, {H})", f"(2, {H})"],
    ),
    "state too wide": (
        {},
        lambda n: (random(T, B, I), state(n, (1, B, H + 1))),
        [f"(1, {B}, {H})", f"(1, {B}, {H + 1})"],
    ),
    "state too narrow": (
        {},
        lambda n: (random(T, B, I), state(n, (1, B, H - 1))),
        [f"(1, {B}, {H})", f"(1, {B}, {H - 1})"],
    ),
    "state too wide, no batch": ({}, lambda n: (random(T, I), state(n, (1, H + 1))), [f"(1, {H})", f"(1, {H + 1})"]),
    "state of another type": (
        {},
        lambda n: (random(T, B, I), state(n, (1, B, H), dtype=torch.float32)),
        ["torch.float32", "torch.float64"],
    ),
}
# Those that only a cell with two states can make.
MISTAKES_OF_LSTM = {
    "first state of another batch": (
        {},
        lambda _: (random(T, B, I), (random(1, B + 1, H), random(1, B, H))),
        ["h", f"(1, {B}, {H})", f"(1, {B + 1}, {H})"],
    ),
    "second state of another batch": (
        {},
        lambda _: (random(T, B, I), (random(1, B, H), random(1, B + 1, H))),
        ["c", f"(1, {B}, {H})", f"(1, {B + 1}, {H})"],
    ),
    "second state without a batch": (
        {},
        lambda _: (random(T, B, I), (random(1, B, H), random(1, H))),
        ["c", f"(1, {B}, {H})", f"(1, {H})"],
    ),
    "output state not projected": (
        {"proj_size": 2},
        lambda _: (random(T, B, I), (random(1, B, H), random(1, B, H))),
        ["h", f"(1, {B}, 2)", f"(1, {B}, {H})"],
    ),
    "cell state projected": (
        {"proj_size": 2},
        lambda _: (random(T, B, I), (random(1, B, 2), random(1, B, 2))),
        ["c", f"(1, {B}, {H})", f"(1, {B}, 2)"],
    ),
    "cell state projected, packed": (
        {"proj_size": 2},
        lambda _: (packed([3, 2]), (random(1, 2, 2), random(1, 2, 2))),
        ["c", f"(1, 2, {H})", "(1, 2, 2)"],
    ),
    "one state of two": ({}, lambda _: (random(T, B, I), random(2, B, H)), ["2", "1"]),
}


@pytest.mark.parametrize(
    ("name", "mistake"),
    [(name, mistake) for name in NAMES for mistake in MISTAKES] + [("LSTM", mistake) for mistake in MISTAKES_OF_LSTM],
)
def test_mistakes(name, mistake, pairs):
    """Whatever torch raises, ours raises too, and says more."""
    options, arguments, words = (MISTAKES | MISTAKES_OF_LSTM)[mistake]
    ours, theirs = pairs(name, I, H, dtype=torch.float64, **options)
    args = arguments(name)
    if name == "LSTM" and mistake in MISTAKES and isinstance(args[0], PackedSequence):
        # Here nn.LSTM checks nothing itself, and fails somewhere inside; what is right is what nn.GRU does.
        _, theirs = pairs("GRU", I, H, dtype=torch.float64, **options)
        their_args = arguments("GRU")
    else:
        their_args = args
    with pytest.raises((RuntimeError, ValueError)) as error:
        theirs(*their_args)
    with pytest.raises(error.type) as our_error:
        ours(*args)
    assert_says(our_error, ours, words)


def test_second_state_of_another_type(pairs):
    """torch looks at the first one only, and converts the second."""
    ours, _ = pairs("LSTM", I, H, dtype=torch.float64)
    with pytest.raises(RuntimeError) as error:
        ours(random(T, B, I), (random(1, B, H), random(1, B, H, dtype=torch.float32)))
    assert_says(error, ours, ["c", "torch.float32", "torch.float64"])


@pytest.mark.parametrize("batch", [1, B - 1, B + 1])
@every_class
def test_state_of_another_batch_for_a_sequence_in_any_order(name, batch, pairs):
    """torch puts the state in order before it looks at it, so that of a batch too large it takes some rows."""
    ours, _ = pairs(name, I, H, dtype=torch.float64)
    with pytest.raises(RuntimeError) as error:
        ours(packed([1, 3, 2]), state(name, (1, batch, H)))
    assert_says(error, ours, [f"(1, {B}, {H})", f"(1, {batch}, {H})"])


@every_class
def test_a_row_is_a_state_for_all(name, pairs):
    """Where torch wants every layer, direction and element of the batch written out, ours takes one row for all."""
    ours, theirs = pairs(name, I, H, dtype=torch.float64, **TWICE)
    row = state(name, (H,))
    for x, shape in ((random(T, B, I), (4, B, H)), (random(T, I), (4, H)), (packed([2, 3, 1]), (4, 3, H))):
        with pytest.raises((RuntimeError, IndexError)):
            theirs(x, row)
        wide = tuple(one.expand(shape) for one in flat(row))
        want, got = theirs(x, wide if name == "LSTM" else wide[0]), ours(x, row)
        assert_equal(got, want, torch.float64)
        for one, other in zip(gradients(got, flat(row)), gradients(want, flat(row)), strict=True):
            torch.testing.assert_close(one, other, **EXACT[torch.float64])


# By what is wrong: the arguments, and what the message says.
WRONG_ARGUMENTS = {
    "dropout below zero": ({"num_layers": 2, "dropout": -0.1}, r"dropout .*\[0, 1\].* -0\.1"),
    "dropout above one": ({"num_layers": 2, "dropout": 1.5}, r"dropout .*\[0, 1\].* 1\.5"),
    "dropout a truth": ({"num_layers": 2, "dropout": True}, r"dropout .*\[0, 1\].* True"),
    "dropout a text": ({"num_layers": 2, "dropout": "0.5"}, r"dropout .*\[0, 1\].* '0\.5'"),
    "projection below zero": ({"proj_size": -1}, "proj_size should be a positive integer or zero"),
    "projection as wide": ({"proj_size": H}, rf"proj_size has to be smaller than hidden_size.* {H} and {H}"),
    "projection wider": ({"proj_size": H + 1}, rf"proj_size has to be smaller than hidden_size.* {H + 1} and {H}"),
    "layers below zero": ({"num_layers": -1}, "num_layers must be greater than zero.* -1"),
}


@pytest.mark.parametrize("wrong", WRONG_ARGUMENTS)
@every_class
def test_wrong_arguments(name, wrong, pairs):
    options, message = WRONG_ARGUMENTS[wrong]
    with pytest.raises((TypeError, ValueError)) as error:
        pairs.theirs(name, I, H, **options)
    with pytest.raises(error.type, match=message):
        pairs.ours(name, I, H, **options)


@every_class
def test_dropout_of_one_layer_is_warned_of(name, pairs):
    for make in (pairs.ours, pairs.theirs):
        with pytest.warns(UserWarning, match=r"dropout.* but got dropout=0\.5 and num_layers=1") as found:
            make(name, I, H, dropout=0.5)
        assert make == pairs.theirs or [warning.filename for warning in found] == [__file__]  # where it is to be mended
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            make(name, I, H, num_layers=2, dropout=0.5)
