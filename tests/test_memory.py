"""What a layer keeps for its backward pass: `save = "gates"`, "states" or "every N". The same answers, in less memory.

The random cells have every kind too, by every schedule.
"""

import gc
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cells import LIBRARY, heads_of
from click.testing import CliRunner
from random_cells import in_chunks
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from rnngen.cli import main
from rnngen.compile import compile_model
from rnngen.description import library
from rnngen.explain import explain_model
from rnngen.explain.record import as_record
from rnngen.explain.text import as_text
from rnngen.runtime import again, node
from rnngen.runtime.memory import Memory, memory_of, steps_of
from rnngen.runtime.seal import renewal

ROOT = Path(__file__).resolve().parent.parent
EVERY = ("every", "every 1", "every 3", "every 10", "every 11", "every 100")  # of 11 steps
TIME, BATCH, INPUTS, HIDDEN = 11, 3, 3, 4


def alike(layer_class, save, *, dtype=torch.float64, heads=1, drawn=None, **options):
    """A layer as its class has it, and one of the same weights that keeps something else."""
    torch.manual_seed(0)
    inputs = HIDDEN * heads if layer_class.cell.inputs["x"] == "hidden" else INPUTS
    options |= {one.rate: 0.3 for one in layer_class.cell.drawn}
    plain = layer_class(inputs, HIDDEN * heads, dtype=dtype, heads=heads, **options)
    other = layer_class(inputs, HIDDEN * heads, dtype=dtype, heads=heads, save=save, **options)
    other.load_state_dict(plain.state_dict())
    return plain, other


def answers(layer, time=TIME, *, lengths=(), resets=False, forward=None):
    """Outputs and gradients by name, of a call with states that are given."""
    torch.manual_seed(1)
    cell, dtype = layer.cell, next(layer.parameters()).dtype
    widths = {"": (), "hidden": (layer.hidden_size,), "inputs": (layer.input_size,)}
    widths |= {name: (size,) for name, size in layer.sizes.items()}
    rows = {name: torch.randn(time, BATCH, *widths[of], dtype=dtype) for name, of in cell.inputs.items()}
    first = layer.initial_state(BATCH)
    first = first if isinstance(first, tuple) else (first,)
    begins = [torch.randn_like(state) for state in (*first, *first)]
    leaves = [tensor.requires_grad_() for tensor in (*rows.values(), *begins)]

    def state(tensors):
        return tuple(tensors) if len(tensors) > 1 else tensors[0]

    def packed(tensor):
        return pack_sequence([tensor[:n, b] for b, n in enumerate(lengths)]) if lengths else tensor

    options = {}
    if resets:
        flags = torch.zeros(time, BATCH, dtype=torch.bool)
        flags[[0, 2, min(3, time - 1)], [0, 1, 1]] = True
        options = {"resets": packed(flags), "reset_to": state(begins[len(first) :])}
    given = {name: packed(tensor) for name, tensor in rows.items()}
    torch.manual_seed(2)  # of what is drawn
    y, last = (layer if forward is None else forward)(given.pop("x"), state(begins[: len(first)]), **options, **given)
    y = y if isinstance(y, torch.Tensor) else pad_packed_sequence(y)[0]
    results = [y, *(last if isinstance(last, tuple) else (last,))]
    seeds = [torch.randn(result.shape, dtype=torch.float64).to(result.dtype) for result in results]
    loss = sum((result * seed).sum() for result, seed in zip(results, seeds, strict=True))
    named = dict(layer.named_parameters())
    found = torch.autograd.grad(loss, [*leaves, *named.values()], allow_unused=True, materialize_grads=True)
    names = [*rows, *cell.states, *(f"first {name}" for name in cell.states), *named]
    own = {name: value.detach() for name, value in zip(("y", *cell.states), results, strict=True)}
    return own, dict(zip(names, found, strict=True))


def assert_agree(got, want, tolerance=1e-12, exact=False):
    """The forward pass to the last bit, if it is to be exact, gradients to rounding. A product of torch's is not: its
    bits depend on where its operands lie in memory.
    """
    (outputs, gradients), (wanted, others) = got, want
    for name, value in wanted.items():
        found = outputs[name]
        assert torch.equal(found, value) if exact else torch.allclose(found, value, rtol=0, atol=1e-12), name
    scale = max(1.0, *(float(d.abs().max()) for d in others.values()))
    off = {name: float((gradients[name] - d).abs().max()) / scale for name, d in others.items()}
    assert {name: error for name, error in off.items() if not error <= tolerance} == {}


# What the key says.


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("gates", Memory("gates")),
        ("states", Memory("states")),
        ("every", Memory(every=0)),
        ("every 7", Memory(every=7)),
    ],
)
def test_what_can_be_kept(text, memory):
    assert memory_of(text) == memory


@pytest.mark.parametrize("text", ["", "every 0", "every x", "every 01", "every  7", "every -1", "Gates", "every ٣"])
def test_what_cannot_be_kept(layer_of, text):
    with pytest.raises(ValueError, match="every"):
        memory_of(text)
    with pytest.raises(ValueError, match="save cannot be"):
        layer_of("lstm")(2, 3, save=text)


def test_the_steps_between_states_are_about_the_root():
    assert [steps_of(0, time) for time in (0, 1, 2, 4, 5, 1024, 1_000_000)] == [1, 1, 2, 2, 3, 32, 1000]
    assert steps_of(7, 1_000_000) == 7


def test_a_class_keeps_what_it_was_compiled_for(layer_of):
    lstm = layer_of("lstm")
    assert lstm(2, 3).save == "gates"
    assert "save" not in repr(lstm(2, 3, save="gates"))
    assert "save='every 7'" in repr(lstm(2, 3, save="every 7"))
    with pytest.raises(ValueError, match=r"compiled with save='gates'.*--save states"):
        lstm(2, 3, save="states")
    with pytest.raises(TypeError, match="save should be of type str, got: int"):
        lstm(2, 3, save=7)


# Where it is chosen.


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


@pytest.mark.parametrize(
    ("save", "name", "option"),
    [("states", "states", "states"), ("every", "every", "every"), ("every 7", "every_7", "'every 7'")],
)
def test_compile_saving(run, save, name, option):
    result = run("compile", "lstm", "--with", "layer_norm", "--save", save)
    stem = f"lstm_layer_norm_{name}"
    assert (result.exit_code, result.output) == (0, f"wrote {stem}.c\nwrote {stem}.py\n")
    text = Path(f"{stem}.py").read_text()
    assert f"\n# with layer_norm\n#\n# save: {save}\n" in text
    assert renewal(text.encode()) == f"rnngen compile --with layer_norm --save {option} lstm"
    assert run(*shlex.split(renewal(text.encode()))[1:]).output.splitlines()[-1] == f"{stem}.py is up to date"
    assert f"save={save!r}".replace("'", '"') in text


def test_what_is_usual_need_not_be_said():
    said, usual = (compile_model(library()["lstm"], (), save).text.partition('"""The cell') for save in ("gates", ""))
    assert said[1:] == usual[1:]
    assert "Renew:  rnngen compile --save gates lstm" in said[0]


@pytest.mark.parametrize("option", ["--save 'every 7;ls'", "--save=states", "--save $(ls)", "--save states --force"])
def test_no_other_option_is_told_to_a_shell(option):
    text = compile_model(library()["rnn"], (), "states").text.replace("--save states", option)
    assert renewal(text.encode()) == "rnngen compile --force MODEL"


@pytest.mark.parametrize("command", ["compile", "show", "explain", "verify"])
def test_texts_on_the_command_line(run, command):
    result = run(command, "lstm", "--save", "every 0")
    assert result.exit_code == 2
    assert "a layer cannot keep 'every 0'; the steps of \"every N\" are from 1 to 999,999,999" in result.stderr
    environment = {"_RNNGEN_COMPLETE": "bash_complete", "COMP_WORDS": f"rnngen {command} lstm --save "}
    completed = run(env=environment | {"COMP_CWORD": "4"}, prog_name="rnngen")
    assert completed.stdout == "plain,gates\nplain,states\nplain,every\n"


MODEL = """
name   = "net"
inputs = 3
[[layers]]
cell   = "gru"
hidden = 4
save   = "states"
[[layers]]
cell   = "gru"
hidden = 4
save   = "every 2"
[[layers]]
cell   = "gru"
hidden = 4
with   = ["layer_norm"]
save   = "states"
"""


def test_layers_of_one_file_keep_what_each_says(module_of):
    net = module_of(MODEL).Net(dtype=torch.float64)
    kinds = [(type(layer).__name__, layer.cell.save, layer.save) for layer in net.recurrent]
    assert kinds == [
        ("GRUStates", "states", "states"),
        ("GRU", "gates", "every 2"),
        ("GRULayerNormStates", "states", "states"),
    ]
    usual = re.sub("save .*", "", MODEL)
    plain = module_of(usual).Net(dtype=torch.float64)
    plain.load_state_dict(net.state_dict())
    x, found = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True), []
    for one in (net, plain):
        y, _ = one(x)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *one.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("command", ["compile", "show", "explain", "verify"])
def test_a_stack_says_itself_what_it_keeps(run, command):
    Path("net.toml").write_text(MODEL)
    result = run(command, "net.toml", "--save", "states")
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'in the table of a layer with a cell, write save = "states".' in result.stderr


def test_show_and_explain_states_alone(run):
    shown = run("show", "lstm", "--save", "states").stdout
    assert "weight_ih_x_b, made once more" in shown
    assert "\n\nagain: some steps at once, before the adjoint runs over them\n" in shown
    assert "from weight_hh_h_sum, made once more for some steps at once" in shown
    assert "once more" not in run("show", "lstm").stdout
    text = as_text(explain_model(library()["lstm"], "sm_90", save="states"))
    assert run("explain", "lstm", "--save", "states").stdout == text
    assert text.startswith("lstm_states: 128 units")


@pytest.mark.parametrize(
    ("save", "time", "chosen", "every"),
    [("", None, "gates", None), ("states", None, "states", None), ("every 7", 100, "every", 7), ("", 100, "gates", 10)],
)
def test_the_bytes_of_each_kind(save, time, chosen, every):
    explained = explain_model(library()["lstm"], "c", hidden=64, batch=2, dtype="float64", time=time, save=save)
    (scan,) = as_record(explained)["scans"]
    array = 64 * 2 * 8
    kept = scan["kept"]
    assert (kept["chosen"], kept["every_steps"], kept["states_bytes"]) == (chosen, every, 2 * array)
    assert kept["step_bytes"] == {"gates": 6 * array, "states": 2 * array}
    if time:
        chunks = -(-time // every)
        total = 2 * array * (chunks - 1) + 6 * array * every
        assert kept["total_bytes"] == {"gates": 600 * array, "states": 200 * array, "every": total}


def test_an_adjoint_that_makes_products_again_has_none_more():
    models = [explain_model(library()["lstm"], "sm_90", hidden=64, save=save) for save in ("", "states")]
    usual, other = (model.scans[0][1][1].work for model in models)
    assert other.products == usual.products > 0
    assert other.read <= usual.read


@pytest.mark.slow
def test_verify_states_alone(run):
    result = run("verify", "gru", "--save", "states", "--path", "torch", "--dtype", "float64")
    assert result.exit_code == 0, result.output
    assert "GRUStates, float64" in result.output


# States every N steps.


@pytest.mark.parametrize("save", EVERY)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True, "num_layers": 2},
        {"reverse": True, "last_only": True},
        {"last_only": True},
        {"proj_size": 2},
    ],
    ids=str,
)
def test_every_few_steps(layer_of, native_of, save, options):
    for layer_class in (layer_of("lstm"), native_of("lstm").LSTM):
        plain, other = alike(layer_class, save, **options)
        for call in ({}, {"lengths": (11, 6, 2)}, {"resets": "proj_size" not in options}):
            if not (options.get("reverse") and "lengths" in call):
                assert_agree(answers(other, **call), answers(plain, **call))


@pytest.mark.parametrize("time", [1, 2, 3, 4])
def test_few_steps(layer_of, time):
    plain, other = alike(layer_of("gru"), "every 2")
    assert_agree(answers(other, time), answers(plain, time))


def test_what_is_drawn_is_drawn_once(layer_of):
    plain, other = alike(layer_of("# with zoneout, recurrent_dropout, drop_connect\n" + LIBRARY["gru"]), "every 3")
    assert_agree(answers(other), answers(plain))


def test_only_what_needs_a_gradient_has_one(layer_of):
    plain, other = alike(layer_of("lstm"), "every 3")
    x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
    for layer in (plain, other):
        layer.weight_hh_l0.requires_grad_(False)
        _, (h, _) = layer(x)
        h.sum().backward()  # nothing comes in by y
        assert layer.weight_hh_l0.grad is None
    for (name, one), two in zip(other.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-12, atol=1e-14, msg=name)


def test_parameters_that_are_added_have_gradients_of_their_own(layer_of):
    _, layer = alike(layer_of("lstm"), "every 3")
    layer(torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64))[0].sum().backward()
    assert torch.equal(layer.bias_ih_l0.grad, layer.bias_hh_l0.grad)
    layer.bias_ih_l0.grad.zero_()
    assert layer.bias_hh_l0.grad.any()


@pytest.mark.parametrize("native", [False, True])
def test_a_second_derivative(layer_of, native_of, native):
    plain, other = alike(native_of("lstm").LSTM if native else layer_of("lstm"), "every 3")
    found = []
    for layer in (plain, other):
        torch.manual_seed(0)
        x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True)
        leaves = [x, *layer.parameters()]
        first = torch.autograd.grad(layer(x)[0].square().sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(d.square().sum() for d in first), leaves)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_under_autocast(layer_of):
    plain, other = alike(layer_of("gru"), "every 4", dtype=torch.float32)

    def cast(layer):
        def forward(*args, **options):
            with torch.autocast("cpu", torch.bfloat16):
                y, state = layer(*args, **options)
                return y.float(), state.float()

        return answers(layer, forward=forward)

    (outputs, gradients), (wanted, others) = cast(other), cast(plain)
    for got, want in ((outputs, wanted), (gradients, others)):
        for name, exact in want.items():  # a state is rounded where a chunk ends
            assert float((got[name] - exact).norm()) <= 2e-2 * float(exact.norm()) + 1e-6, name


def test_autocast_remembers_no_weight_without_a_gradient(layer_of):
    _, layer = alike(layer_of("lstm"), "every 4", dtype=torch.float32)
    x = torch.randn(TIME, BATCH, INPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
        tied = torch.nn.functional.linear(x, layer.weight_ih_l0)
    tied.sum().backward()
    assert layer.weight_ih_l0.grad is not None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile itself looks
@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_graph_breaks_around_it(layer_of, fullgraph):
    torch._dynamo.reset()
    plain, other = alike(layer_of("lstm"), "every 4")
    compiled = torch.compile(other, backend="aot_eager", fullgraph=fullgraph)
    if fullgraph:
        with pytest.raises(torch._dynamo.exc.Unsupported, match="no part of a compiled graph"):
            answers(other, forward=compiled)
    else:
        assert_agree(answers(other, forward=compiled), answers(plain))
    with torch.no_grad():  # where nothing is kept there is nothing to run again
        x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
        torch.testing.assert_close(torch.compile(other, backend="aot_eager", fullgraph=True)(x), plain(x))


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_exported_runs_all_steps_at_once(layer_of, strict):
    plain, other = alike(layer_of("lstm"), "every 4")
    x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
    found, wanted = (torch.export.export(layer, (x,), strict=strict) for layer in (other, plain))
    assert len(found.graph.nodes) == len(wanted.graph.nodes)
    torch.testing.assert_close(found.module()(x)[0], plain(x)[0])


def test_transforms_run_all_steps_at_once(layer_of):
    plain, other = alike(layer_of("lstm"), "every 4")
    x = torch.randn(2, TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(torch.func.vmap(lambda x, f=f: f(x)[0])(x).sum(), x)[0] for f in (other, plain)]
    torch.testing.assert_close(*found)
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.grad(lambda x: other(x)[0].sum())(x[0])


def test_the_reference_keeps_what_it_has_always_kept(layer_of):
    plain, other = alike(layer_of("lstm"), "every 4")
    assert_agree(answers(other, forward=other.reference), answers(plain, forward=plain.reference))


@pytest.mark.parametrize("native", [False, True], ids=["torch", "native"])
def test_batches_of_gradients(layer_of, native_of, native):
    layer = (native_of("lstm").LSTM if native else layer_of("lstm"))(INPUTS, HIDDEN, dtype=torch.float64)
    x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
    seeds = torch.randn(3, TIME, BATCH, HIDDEN, dtype=torch.float64)

    def found(save):
        layer.save = save
        leaves = [x.clone().requires_grad_(), *layer.parameters()]
        y, _ = layer(leaves[0])
        return torch.autograd.grad(y, leaves, seeds, is_grads_batched=True)

    for one, other in zip(found("every 3"), found("gates"), strict=True):
        torch.testing.assert_close(one, other)


def test_hooks_of_saved_tensors(layer_of):
    """They may keep something else and give it back anew, as those do that move tensors to another device."""
    plain, other = alike(layer_of("lstm"), "every 4")
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        got = answers(other)
    assert_agree(got, answers(plain))


def test_what_was_changed_in_place_is_found_out(layer_of):
    _, layer = alike(layer_of("lstm"), "every 4")
    x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
    y, _ = layer(x)
    x.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# States alone.


def states_alone(cell) -> str:
    """The text of a cell of the library that is compiled to keep states alone."""
    return f"{LIBRARY[cell]}\n# save states\n"


def pair_of(modules, cell, save=None, **options):
    """A layer as its class has it, and one of the same weights whose class keeps states alone."""
    usual, alone = (next(iter(layers_of(modules(text)))) for text in (cell, states_alone(cell)))
    plain, _ = alike(usual, None, heads=heads_of(LIBRARY[cell]), **options)
    _, other = alike(alone, save, heads=heads_of(LIBRARY[cell]), **options)
    other.load_state_dict(plain.state_dict())
    return plain, other


def layers_of(module):
    return (v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__)


@pytest.mark.parametrize("path", ["torch", "native", "torch, in parts", "native, in parts"])
@pytest.mark.parametrize("cell", ["lstm", "gru_v3"])
def test_states_alone(module_of, native_of, monkeypatch, cell, path):
    exact = "native" in path
    modules = native_of if "native" in path else module_of
    for runtime in (again, node) if "parts" in path else ():
        monkeypatch.setattr(runtime, "AT_ONCE", 70)
    for options in ({"bidirectional": True, "num_layers": 2}, {"reverse": True}, {"last_only": True}, {"proj_size": 2}):
        for save in (None, "every 4"):
            plain, other = pair_of(modules, cell, save, **options)
            assert_agree(answers(other), answers(plain), exact=exact)
            if options.keys() <= {"bidirectional", "num_layers"}:
                assert_agree(answers(other, lengths=(11, 6, 2)), answers(plain, lengths=(11, 6, 2)), exact=exact)
                assert_agree(answers(other, resets=True), answers(plain, resets=True), exact=exact)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["torch", "native"])
@pytest.mark.parametrize("cell", LIBRARY)
def test_every_kind_of_every_cell(module_of, native_of, cell, path):
    modules = module_of if path == "torch" else native_of
    for save in (None, "every 4"):
        plain, other = pair_of(modules, cell, save)
        for call in ({}, {"lengths": (11, 7, 3), "resets": True}):
            # A compiler of C may contract other products and sums where the loop stores something else.
            assert_agree(answers(other, **call), answers(plain, **call))
    plain, other = alike(type(plain), "every 4", heads=heads_of(LIBRARY[cell]))
    assert_agree(answers(other, lengths=(11, 7, 3), resets=True), answers(plain, lengths=(11, 7, 3), resets=True))


def test_states_alone_with_what_is_drawn(layer_of):
    text = f"# with zoneout, recurrent_dropout, layer_norm\n{LIBRARY['gru']}"
    plain, _ = alike(layer_of(text), None)
    _, other = alike(layer_of(f"{text}\n# save states\n"), None)
    other.load_state_dict(plain.state_dict())
    assert_agree(answers(other), answers(plain))


def test_a_class_that_keeps_states_alone(layer_of):
    alone = layer_of(states_alone("lstm"))
    assert (alone.__name__, alone.cell.name, alone(2, 3).save) == ("LSTMStates", "lstm_states", "states")
    assert alone(2, 3, save="every 5").save == "every 5"
    with pytest.raises(ValueError, match="`rnngen compile NAME` makes a class that does"):
        alone(2, 3, save="gates")


@pytest.mark.parametrize("native", [False, True])
def test_a_second_derivative_of_states_alone(module_of, native_of, native):
    found = []
    for layer in pair_of(native_of if native else module_of, "gru_v3"):
        torch.manual_seed(0)
        x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True)
        leaves = [x, *layer.parameters()]
        first = torch.autograd.grad(layer(x)[0].square().sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(d.square().sum() for d in first), leaves)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", ["torch", "native"])
@pytest.mark.parametrize("norm", ["", "# with layer_norm\n"])  # with it no projection is given to the scan as one
def test_products_are_made_again_in_parts(module_of, native_of, monkeypatch, path, norm):
    """Each for as many steps as are at once, and none twice."""
    modules = native_of if path == "native" else module_of
    (layer_class,) = layers_of(modules(f"{norm}{LIBRARY['gru_v3']}\n# save states\n"))
    for runtime in (again, node):
        monkeypatch.setattr(runtime, "AT_ONCE", 4 * BATCH * 3 * HIDDEN)  # of the widest projection
    layer, scan, made = layer_class(INPUTS, HIDDEN), layer_class.cell.scan, []
    own = scan._again
    monkeypatch.setattr(scan, "_again", lambda *given: made.append(own(*given)) or made[-1])
    layer(torch.randn(TIME, BATCH, INPUTS))[0].sum().backward()
    steps = [len(products[0]) for products in made]
    assert sum(steps) == TIME
    assert 1 < max(steps) <= (6 if norm else 4)
    assert {product.shape[1:] for products in made for product in products} == {(BATCH, 2 * HIDDEN), (BATCH, HIDDEN)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_v3"])
def test_states_alone_in_half_precision(module_of, cell, dtype):
    """Products that are made again are rounded, as gates are that are kept: gradients are off by no more."""
    exact, _ = pair_of(module_of, cell)
    with torch.no_grad():
        for weight in exact.parameters():
            weight.copy_(weight.to(dtype))
    x = torch.randn(100, 8, INPUTS).to(dtype)
    errors, want = [], None
    for layer in (exact, *pair_of(module_of, cell, dtype=dtype)):
        layer.load_state_dict(exact.state_dict())
        rows = x.to(next(layer.parameters()).dtype).requires_grad_()
        found = torch.autograd.grad(layer(rows)[0].double().square().sum(), [rows, *layer.parameters()])
        want = want or found
        errors.append(max(float((d.double() - own).norm() / own.norm()) for d, own in zip(found, want, strict=True)))
    _, gates, states = errors
    assert 0 < states <= 1.1 * gates


def test_batches_of_gradients_of_states_alone(module_of, native_of):
    for modules in (module_of, native_of):
        _, layer = pair_of(modules, "gru_v3")
        x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True)
        y, leaves = layer(x)[0], [x, *layer.parameters()]
        seeds = torch.randn(3, *y.shape, dtype=y.dtype)
        found = torch.autograd.grad(y, leaves, seeds, is_grads_batched=True, retain_graph=True)
        each = [torch.autograd.grad(y, leaves, seed, retain_graph=True) for seed in seeds]
        for got, want in zip(found, zip(*each, strict=True), strict=True):
            torch.testing.assert_close(got, torch.stack(want), rtol=1e-12, atol=1e-12)


def test_an_ensemble_of_states_alone(module_of):
    """Each with weights of its own, by which its products are made again."""
    layers = [pair_of(module_of, "lstm")[1] for _ in range(3)]
    for n, layer in enumerate(layers):
        with torch.no_grad():
            for weight in layer.parameters():
                weight.mul_(1 + n)
    x = torch.randn(TIME, BATCH, INPUTS, dtype=torch.float64)
    stacked, _ = torch.func.stack_module_state(layers)
    stacked = {name: weight.detach().requires_grad_() for name, weight in stacked.items()}
    run = torch.func.vmap(lambda weights: torch.func.functional_call(layers[0], weights, (x,))[0])
    found = torch.autograd.grad(run(stacked).sum(), list(stacked.values()))
    each = [torch.autograd.grad(layer(x)[0].sum(), list(layer.parameters())) for layer in layers]
    for got, want in zip(found, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want), rtol=1e-12, atol=1e-12)


def test_states_alone_under_autocast(module_of):
    plain, other = pair_of(module_of, "gru_v3", dtype=torch.float32)
    x, found = torch.randn(TIME, BATCH, INPUTS, requires_grad=True), []
    for layer in (other, plain):
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = layer(x)
        assert y.dtype == torch.bfloat16
        found.append([y.detach(), *torch.autograd.grad(y.float().sum(), [x, *layer.parameters()])])
    for got, want in zip(*found, strict=True):
        assert got.dtype == want.dtype
        assert float((got - want).norm()) <= 2e-2 * float(want.norm())
    assert torch.equal(found[0][0], found[1][0])


def test_states_alone_in_a_compiled_graph_and_under_transforms(module_of):
    torch._dynamo.reset()
    plain, other = pair_of(module_of, "gru_v3")
    assert_agree(answers(other, forward=torch.compile(other, backend="aot_eager", fullgraph=True)), answers(plain))
    x = torch.randn(2, TIME, BATCH, INPUTS, dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(torch.func.vmap(lambda x, f=f: f(x)[0])(x).sum(), x)[0] for f in (other, plain)]
    torch.testing.assert_close(*found)
    with pytest.raises(NotImplementedError, match=r"torch\.func"):
        torch.func.grad(lambda x: other(x)[0].sum())(x[0])
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone):
        got = answers(other)
    assert_agree(got, answers(plain))


# How much it is.


def kept_bytes(layer, time) -> int:
    """What a forward pass keeps for the backward one, beside the weights and the input."""
    x = torch.randn(time, 2, layer.input_size, requires_grad=True)
    known = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), x)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


@pytest.mark.parametrize("path", ["torch", "native"])
def test_what_is_kept_grows_like_the_root_of_the_steps(module_of, native_of, path):
    lstm = (module_of if path == "torch" else native_of)("lstm").LSTM
    times = (16, 256) if path == "torch" else (256, 4096)
    gates, every = ([kept_bytes(lstm(3, 8, save=save), time) for time in times] for save in ("gates", "every"))
    assert gates[1] == pytest.approx(16 * gates[0], rel=0.01)
    assert 3.5 * every[0] < every[1] < 4.6 * every[0]  # one chunk begins with what a call is given
    assert every[0] <= 2 * 2 * 8 * 4 * 17  # the states of as many chunks


@pytest.mark.parametrize("path", ["torch", "native"])
def test_of_states_alone_one_is_kept_beside_the_output(module_of, native_of, path):
    modules = module_of if path == "torch" else native_of
    array = 64 * 2 * 8 * 4  # of all steps
    kept = {}
    for cell in ("lstm", "gru"):
        classes = [next(iter(layers_of(modules(text)))) for text in (cell, states_alone(cell))]
        kept[cell] = [kept_bytes(layer_class(3, 8), 64) for layer_class in classes]
    gates, states = kept["lstm"]
    assert (gates // array, states // array) == ((10 if path == "torch" else 6), 2)
    gates, states = kept["gru"]
    assert (gates // array, states // array) == ((8 if path == "torch" else 5), 1)


LONG = """
import resource, sys, torch
sys.path[:0] = [{folder!r}, {root!r}]
torch.set_num_threads(1)
from {module} import LSTM
layer, head = LSTM(1, 32, save="every"), torch.nn.Linear(32, 1)
x = torch.randn(1_000_000, 1, 1)
(head(layer(x)[0]) - x).square().mean().backward()
assert all(weight.grad.isfinite().all() for weight in (*layer.parameters(), *head.parameters()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_million_steps_train_within_a_gigabyte(native_of):
    module = native_of("lstm")
    path = Path(module.__file__)
    order = LONG.format(folder=str(path.parent), root=str(ROOT), module=path.stem)
    done = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 1e9


@pytest.mark.parametrize("schedule", ["auto", "chunked 4 2"])
@pytest.mark.parametrize("save", ["gates", "states", "every 4"])
@pytest.mark.parametrize("path", ["torch", "native"])
def test_what_a_step_has_kept_goes_with_its_graph(module_of, native_of, path, save, schedule):
    """Nothing refers to itself, which Python would find much later."""
    modules = native_of if path == "native" else module_of
    layer_class = next(layers_of(modules(states_alone("gru") if save == "states" else "gru")))
    layer = layer_class(2, 3, schedule=schedule, dtype=torch.float64, **({} if save == "states" else {"save": save}))
    x = torch.randn(12, 2, 2, dtype=torch.float64)
    gc.disable()
    try:
        for _ in range(2):  # the first call of an operator leaves cycles of torch's
            gc.collect()
            with in_chunks():
                layer(x)[0].square().sum().backward()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
