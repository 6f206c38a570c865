"""A few of torch's module samples, and of ours beside them, by the kernels in Triton's interpreter."""

import pytest
import torch
from test_torch_modules import EXACT, Pairs, assert_pair, check_options, made, naming, packed, random, samples

from rnngen.runtime.language import interpreting

# What torch's own class says.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

I, H = 3, 4
# Two layers of width 2 or 3 and three steps: of each class one without a bias, and one both ways with everything.
SAMPLES = [("LSTM", 1), ("LSTM", 31), ("GRU", 1), ("GRU", 30), ("RNN", 2), ("RNN", 61)]


def setup_module():
    assert interpreting()


@pytest.fixture(scope="session")
def pairs(layer_of) -> Pairs:
    return Pairs(layer_of)


@pytest.mark.parametrize("dtype", EXACT, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("name", "number"), SAMPLES)
def test_samples(name, number, dtype, pairs):
    sample = samples(name, dtype)[number]
    with naming(sample):
        ours, theirs = made(pairs, name, sample, dtype)
        assert_pair(ours, theirs, sample.forward_input.args, dtype)


@pytest.mark.parametrize("kind", ["batch", "in any order"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2}),
        ("GRU", {"num_layers": 2, "bidirectional": True, "bias": False}),
        ("RNN", {"num_layers": 2, "nonlinearity": "relu"}),
    ],
)
def test_options(name, options, kind, pairs):
    check_options(pairs, name, options, kind)


@pytest.mark.parametrize("schedule", ["resident", "stepwise"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_schedules(schedule, bidirectional, pairs):
    """Both take a packed sequence, in which the last of the batch ends first."""
    options = {"num_layers": 2, "bidirectional": bidirectional, "dtype": torch.float64}
    given, theirs = pairs("LSTM", I, H, **options)
    ours = pairs.ours("LSTM", I, H, schedule=schedule, **options)
    ours.load_state_dict(given.state_dict())
    assert_pair(ours, theirs, (packed([4, 2, 1]),), torch.float64)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_no_gradient_wanted(name, pairs):
    """The kernels write less, and the answer is the same."""
    ours, theirs = pairs(name, I, H, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = random(5, 3, I)
    with torch.no_grad():
        for given in (x, packed([2, 4, 1])):
            got, want = ours(given), theirs(given)
            torch.testing.assert_close(got, want, **EXACT[torch.float64])


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_batched_gradients(name, pairs):
    """The kernels run for one gradient after another."""
    ours, theirs = pairs(name, I, H, dtype=torch.float64)
    x = random(3, 2, I)
    want = torch.autograd.functional.jacobian(lambda x: theirs(x)[0], x)
    got = torch.autograd.functional.jacobian(lambda x: ours(x)[0], x, vectorize=True)
    torch.testing.assert_close(got, want, **EXACT[torch.float64])
