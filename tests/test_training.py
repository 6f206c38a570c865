"""Training as people do it, on the CPU path: optimizers, autocast, pieces of long sequences, and torch's transforms."""

import copy

import cells
import pytest
import torch
from test_runtime import new_layer
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import rnngen.runtime.language

I, H, T, B = 3, 4, 12, 5

every_cell = pytest.mark.parametrize("name", cells.ALL)


def setup_module():
    assert not rnngen.runtime.language.interpreting()


def random(*shape: int, dtype=torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def flat(results) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [t for part in results for t in flat(part)]


def total(results) -> Tensor:
    """A sum in which every element has a weight of its own."""
    return sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view(t.shape)).sum() for t in flat(results))


def detached(state):
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


def assert_equal(got, want, rtol: float = 1e-10, atol: float = 1e-12) -> None:
    for one, other in zip(flat(got), flat(want), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


class Tagger(nn.Module):
    """Says for each token of a sentence which of a few classes it is of."""

    def __init__(self, recurrent: nn.Module, features: int, words: int = 11, classes: int = 4, dtype=None):
        super().__init__()
        self.embedding = nn.Embedding(words, recurrent.input_size, dtype=dtype)
        self.recurrent = recurrent
        self.dense = nn.Linear(features, classes, dtype=dtype)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, _ = self.recurrent(x)
        if lengths is not None:
            y, _ = pad_packed_sequence(y, total_length=tokens.shape[0])
        return self.dense(y)


BOTH_WAYS = {"num_layers": 2, "bidirectional": True}


def taggers(layer_of, dtype=torch.float64, **options) -> tuple[Tagger, Tagger]:
    """One with our LSTM and one with torch's, with the same weights."""
    features = options.get("proj_size", H) * (2 if options.get("bidirectional") else 1)
    torch.manual_seed(0)
    theirs = Tagger(nn.LSTM(I, H, dtype=dtype, **options), features, dtype=dtype)
    ours = Tagger(layer_of("lstm")(I, H, dtype=dtype, **options), features, dtype=dtype)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def sentences(time: int = T, batch: int = B) -> tuple[Tensor, Tensor]:
    """Tokens, and as the class of each whether it and the one before it are even."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(11, (time, batch), generator=generator)
    before = torch.cat((torch.zeros(1, batch, dtype=torch.long), tokens[:-1]))
    return tokens, tokens % 2 + 2 * (before % 2)


def loss_of(model: Tagger, tokens: Tensor, wanted: Tensor, *lengths: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens, *lengths).flatten(0, 1).float(), wanted.flatten())


def train(model: Tagger, steps: int = 8, *lengths: Tensor) -> list[float]:
    """AdamW with clipped gradients. The loss before each step."""
    torch.manual_seed(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)
    tokens, wanted = sentences()
    losses, norms = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(tokens, *lengths)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.02).item())
        optimizer.step()
        losses.append(loss.item())
    assert max(norms) > 0.02
    return losses


@pytest.mark.parametrize(
    "options",
    [{}, BOTH_WAYS, {"num_layers": 2, "dropout": 0.3}, {"proj_size": 2, "num_layers": 2}],
    ids=["one layer", "both ways", "dropout", "projected"],
)
def test_training_is_that_of_torch(layer_of, options):
    ours, theirs = taggers(layer_of, **options)
    start = copy.deepcopy(ours.state_dict())
    got, want = train(ours), train(theirs)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-10, atol=1e-10)
        assert not torch.allclose(value, start[key], rtol=1e-3)


def test_training_with_sentences_of_different_lengths(layer_of):
    ours, theirs = taggers(layer_of, **BOTH_WAYS)
    lengths = torch.tensor([7, T, 1, 9, 4])
    torch.testing.assert_close(train(ours, 5, lengths), train(theirs, 5, lengths), rtol=1e-10, atol=0)
    assert_equal(list(ours.parameters()), list(theirs.parameters()), 1e-10, 1e-10)


def test_it_learns(layer_of):
    ours, _ = taggers(layer_of, torch.float32)
    losses = train(ours, 60)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("options", [{}, BOTH_WAYS | {"dropout": 0.1}], ids=["one layer", "both ways"])
def test_autocast(layer_of, options):
    """Mixed precision: the weights and the optimizer in float32, the products in bfloat16."""
    model, _ = taggers(layer_of, torch.float32, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    tokens, wanted = sentences()
    torch.manual_seed(4)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens)
            assert logits.dtype == torch.bfloat16
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())
        loss.backward()
        assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


# Long sequences in pieces.


def in_pieces(layer, x: Tensor, size: int, state=None, between=lambda state: state):
    """Output and last state of a scan whose state is carried from piece to piece."""
    parts = []
    for piece in x.split(size):
        y, state = layer(piece, state)
        state = between(state)
        parts.append(y)
    return torch.cat(parts), state


@every_cell
def test_pieces_with_the_state_carried(name, layer_of):
    """The same numbers as the whole, and, as long as nothing is detached, the same gradients; two layers deep."""
    layer = new_layer(name, layer_of, num_layers=2)
    x = random(7, B, layer.input_size).requires_grad_()
    leaves = [x, *layer.parameters()]
    want, got = layer(x), in_pieces(layer, x, 3)
    assert_equal(got, want)

    def gradients(results):
        return torch.autograd.grad(total(results), leaves, allow_unused=True, materialize_grads=True)

    assert_equal(gradients(got), gradients(want))
    detached_between = in_pieces(layer, x, 3, between=detached)
    assert_equal(detached_between, want)


@pytest.mark.parametrize("options", [{}, {"num_layers": 3}, {"num_layers": 2, "proj_size": 2, "batch_first": False}])
def test_truncated_backpropagation(layer_of, options):
    """A step of the optimizer after each piece, whose gradient ends where the piece begins."""
    torch.manual_seed(0)
    theirs = nn.LSTM(I, H, dtype=torch.float64, **options)
    ours = layer_of("lstm")(I, H, dtype=torch.float64, **options)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x, target = random(T, B, I), random(T, B, options.get("proj_size", H), seed=2)
    losses = {}
    for layer in (ours, theirs):
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.9)
        state, losses[layer] = None, []
        for piece, wanted in zip(x.split(5), target.split(5), strict=True):
            state = state and detached(state)
            y, state = layer(piece, state)
            loss = (y - wanted).square().mean() + sum(part.square().mean() for part in state)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[layer].append(loss.item())
    torch.testing.assert_close(losses[ours], losses[theirs], rtol=1e-12, atol=0)
    assert_equal(list(ours.parameters()), list(theirs.parameters()), 1e-10, 1e-12)


# torch's transforms of whole models.


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile itself looks
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
def test_compiled_model(layer_of, packed):
    """embedding, two layers both ways with dropout, dense: one graph, forwards and backwards."""
    if packed and torch.__version__ < (2, 12):
        pytest.skip("torch 2.11 fails when it traces its own pad_packed_sequence")
    torch._dynamo.reset()
    model, _ = taggers(layer_of, dropout=0.3, **BOTH_WAYS)
    lengths = [torch.tensor([7, T, 1, 9, 4])] if packed else []
    fast = torch.compile(model, fullgraph=not packed, backend="aot_eager")
    tokens, wanted = sentences()
    for training in (False, True):
        model.train(training)
        found = []
        for each in (model, fast):
            torch.manual_seed(5)
            loss = loss_of(each, tokens, wanted, *lengths)
            found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
        assert_equal(*found)


def test_activation_checkpointing(layer_of):
    """Each half of the layers is run a second time in the backward pass, with the same dropout."""
    torch.manual_seed(0)
    halves = [layer_of("lstm")(size, H, num_layers=2, dropout=0.4, dtype=torch.float64) for size in (I, H)]
    parameters = [parameter for half in halves for parameter in half.parameters()]
    x = random(T, B, I).requires_grad_()
    found = []
    for run in (lambda half, x: half(x), lambda half, x: checkpoint(half, x, use_reentrant=False)):
        torch.manual_seed(6)
        y, state = run(halves[0], x)
        results = (*run(halves[1], y), state)
        found.append((results, torch.autograd.grad(total(results), [x, *parameters])))
    assert_equal(found[1][0], found[0][0], 0, 0)
    assert_equal(found[1][1], found[0][1], 0, 0)


def test_ensemble(layer_of):
    """torch.func's way to run several models of the same shape at once."""
    members = []
    for seed in range(3):
        torch.manual_seed(seed)
        members.append(layer_of("lstm")(I, H, dtype=torch.float64, **BOTH_WAYS))
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def one(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    x = random(T, B, I)
    for got in (
        vmap(one, in_dims=(0, 0, None))(parameters, buffers, x),
        vmap(one)(parameters, buffers, x.expand(3, T, B, I)),
    ):
        want = [member(x) for member in members]
        for number, results in enumerate(want):
            assert_equal([tensor[number] for tensor in flat(got)], flat(results))
        losses = torch.stack([total([tensor[number] for tensor in flat(got)]) for number in range(3)])
        gradients = dict(zip(parameters, torch.autograd.grad(losses.sum(), parameters.values()), strict=True))
        for number, (member, results) in enumerate(zip(members, want, strict=True)):
            wanted = torch.autograd.grad(total(results), list(member.parameters()))
            assert_equal([gradients[key][number] for key, _ in member.named_parameters()], list(wanted))


def test_exported_model(layer_of):
    """Exported once, it runs for other lengths and other batches."""
    model, _ = taggers(layer_of, **BOTH_WAYS)
    model.eval()
    dynamic = ({0: torch.export.Dim("time"), 1: torch.export.Dim("batch")},)
    program = torch.export.export(model, (sentences()[0],), dynamic_shapes=dynamic)
    for time, batch in ((T, B), (T, 2 * B), (3, B), (20, 9)):
        tokens, _ = sentences(time, batch)
        assert_equal(program.module()(tokens), model(tokens))
