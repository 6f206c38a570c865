"""The checked-in modules on a real GPU, where there is one; needs torch and Triton, and nothing of the compiler."""

from importlib import import_module

import pytest
import torch
from judge import TOLERANCES, compare

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


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", CLASSES)
def test_every_schedule(name, dtype, sizes, reverse):
    module = import_module(f"generated.{name}")
    scan = getattr(module, f"{name}_scan")
    heads = 3 if name == "lstm_heads" else 1
    for schedule in scan.forward.launchers:
        if schedule == "resident" and sizes[-1] > 32 and dtype == torch.float64:
            continue  # wider than the products whose accumulators fit the registers in float64
        found = compare(getattr(module, CLASSES[name]), dtype, sizes, schedule, reverse, heads, "cuda")
        # Rounding grows with the length: the table is for sequences of a few steps.
        longer = max(1, sizes[0] / 4)
        assert not {key: pair for key, pair in found.items() if not pair[0] <= longer * pair[1]}, schedule


@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "reversed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", CLASSES)
def test_sequences_of_different_lengths(name, dtype, reverse):
    module = import_module(f"generated.{name}")
    heads = 3 if name == "lstm_heads" else 1
    lengths = [1 + 5 * n % 7 for n in range(19)]
    for schedule in getattr(module, f"{name}_masked_scan").forward.launchers:
        layer_class = getattr(module, CLASSES[name])
        found = compare(layer_class, dtype, (7, 19, 5, 32), schedule, reverse, heads, "cuda", lengths)
        assert not {key: pair for key, pair in found.items() if not pair[0] <= 2 * pair[1]}, schedule


@pytest.mark.parametrize("name", CLASSES)
def test_two_runs_give_the_same_bits(name):
    module = import_module(f"generated.{name}")
    layer = getattr(module, CLASSES[name])(16, 64, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(50, 40, 16, device="cuda", dtype=torch.bfloat16)

    def gradients():
        y, _ = layer(x)
        return torch.autograd.grad(y.float().square().sum(), layer.parameters())

    for once, again in zip(gradients(), gradients(), strict=True):
        assert torch.equal(once, again)


def test_more_elements_than_32_bits_count():
    """Offsets pass 2**31 elements: the last steps must still be right."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("it needs 40 GiB of GPU memory")
    layer = import_module("generated.indrnn").IndRNN(1, 1024, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        x = torch.randn(4200, 512, 1, device="cuda", dtype=torch.bfloat16)
        y, last = layer(x)
        again, _ = layer(x[4000:], layer(x[:4000])[1])
    assert torch.equal(y[-1], last[0])
    assert torch.allclose(y[4000:].float(), again.float(), atol=2e-2)


def test_compiles_as_one_graph():
    layer = import_module("generated.lstm").LSTM(8, 32, device="cuda")
    x = torch.randn(5, 3, 8, device="cuda")
    compiled = torch.compile(layer, fullgraph=True)
    y, _ = compiled(x)
    y.sum().backward()
    assert torch.allclose(y, layer(x)[0], atol=1e-5)
