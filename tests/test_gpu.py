"""The checked-in modules on a real GPU, where there is one; needs torch, Triton and pytest, and nothing else."""

import warnings
from importlib import import_module

import pytest
import torch
from judge import TOLERANCES, compare

from rnngen.runtime.plan import NotPossible

if not torch.cuda.is_available():
    pytest.skip("there is no GPU here that torch can use", allow_module_level=True)

CLASSES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "gru_v3": "GRUv3",
    "indrnn": "IndRNN",
    "lstm_heads": "LSTMHeads",
}
# (time, batch, inputs, width of a head): one of everything, primes, whole tiles, beyond one tile of the batch.
SIZES = [(1, 1, 1, 1), (7, 3, 5, 13), (20, 16, 8, 32), (33, 17, 16, 64)]


DEVICE = torch.device("cuda", torch.cuda.current_device())
CARD = torch.cuda.get_device_name()
HALF = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
EVERYWHERE = 16  # units of a head that every card has room for

# Our warnings are mistakes here as anywhere; torch's are about the card or its own defaults, and are shown.
pytestmark = pytest.mark.filterwarnings("default", "error:::rnngen")


def skip_without(dtype: torch.dtype) -> None:
    """Skips bfloat16 where it is emulated: that is neither fast nor rounded as it would be."""
    if dtype == torch.bfloat16 and dtype != HALF:
        pytest.skip(f"{CARD} has no bfloat16")


def compare_where_possible(name, dtype, sizes, schedule, reverse, lengths=None):
    """What `compare` finds on the GPU. Skips where the card has no room for the schedule."""
    heads = 3 if name == "lstm_heads" else 1
    layer_class = getattr(import_module(f"generated.{name}"), CLASSES[name])
    try:
        return compare(layer_class, dtype, sizes, schedule, reverse, heads, DEVICE, lengths)
    except NotPossible as reason:
        assert schedule == "resident" and sizes[-1] > EVERYWHERE
        pytest.skip(f"{CARD}: {reason}")


def scheduled() -> list:
    """The rows of (name, schedule): every schedule that the scan of a cell has kernels for."""
    scans = {name: getattr(import_module(f"generated.{name}"), f"{name}_scan") for name in CLASSES}
    return [(name, schedule) for name, found in scans.items() for schedule in found.forward.kernels]


def test_our_warnings_are_mistakes_and_torchs_are_not():
    """torch.compile warns on every newer card that tf32 is off, which is what is wanted here."""
    warnings.warn_explicit("tf32 is off", UserWarning, "compile_fx.py", 1, module="torch._inductor.compile_fx")
    with pytest.raises(UserWarning, match="gives way"):
        warnings.warn_explicit("gives way", UserWarning, "launch.py", 1, module="rnngen.runtime.launch")


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name, schedule", scheduled())
def test_every_schedule(name, schedule, dtype, sizes, reverse):
    skip_without(dtype)
    found = compare_where_possible(name, dtype, sizes, schedule, reverse)
    # Rounding grows with the length: the table is for sequences of a few steps.
    longer = max(1, sizes[0] / 4)
    assert not {key: pair for key, pair in found.items() if not pair[0] <= longer * pair[1]}


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name, schedule", scheduled())
def test_sequences_of_different_lengths(name, schedule, dtype, reverse):
    skip_without(dtype)
    lengths = [1 + 5 * n % 7 for n in range(19)]
    found = compare_where_possible(name, dtype, (7, 19, 5, 32), schedule, reverse, lengths)
    assert not {key: pair for key, pair in found.items() if not pair[0] <= 2 * pair[1]}


@pytest.mark.parametrize("name, schedule", scheduled())
def test_two_runs_give_the_same_bits(name, schedule):
    module = import_module(f"generated.{name}")
    layer = getattr(module, CLASSES[name])(16, 64, device=DEVICE, dtype=HALF, schedule=schedule)
    x = torch.randn(50, 40, 16, device=DEVICE, dtype=HALF)

    def gradients():
        try:
            y, _ = layer(x)
            return torch.autograd.grad(y.float().square().sum(), layer.parameters())
        except NotPossible as reason:
            pytest.skip(f"{CARD}: {reason}")

    for once, again in zip(gradients(), gradients(), strict=True):
        assert torch.equal(once, again)


def test_more_elements_than_32_bits_count():
    """Offsets pass 2**31 elements: the last steps must still be right."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("it needs 40 GiB of GPU memory")
    layer = import_module("generated.indrnn").IndRNN(1, 1024, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():
        x = torch.randn(4200, 512, 1, device=DEVICE, dtype=torch.bfloat16)
        y, last = layer(x)
        again, _ = layer(x[4000:], layer(x[:4000])[1])
    assert torch.equal(y[-1], last[0])
    assert torch.allclose(y[4000:].float(), again.float(), atol=2e-2)


def test_compiles_as_one_graph():
    layer = import_module("generated.lstm").LSTM(8, 32, device=DEVICE)
    x = torch.randn(5, 3, 8, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True)
    y, _ = compiled(x)
    y.sum().backward()
    assert torch.allclose(y, layer(x)[0], atol=1e-5)
