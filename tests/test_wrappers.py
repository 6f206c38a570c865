"""Wrappers, with toys in the place of real ones: the key of a layer, the option, the names, and what then runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cells
import pytest
import torch
from click.testing import CliRunner
from conftest import imported
from torch.nn import functional as F
from wrappers_for_tests import TOYS

from rnngen.cli import main
from rnngen.compile import Module, compile_model, programs_of
from rnngen.description import CellLayer, describe, library
from rnngen.description.names import LONGEST_NAME, NAME, is_part
from rnngen.errors import ModelError
from rnngen.explain import explain_model
from rnngen.explain.text import as_text
from rnngen.runtime.seal import renewal
from rnngen.source import Source
from rnngen.verify import OWN, TOLERANCES, _case, _Run
from rnngen.wrappers import WRAPPERS

TESTS = Path(__file__).resolve().parent
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    for name, wrapper in TOYS.items():
        monkeypatch.setitem(WRAPPERS, name, wrapper)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


def stack(*layers: str, cells: str = "", name: str = "model") -> Source:
    """A file of layers that are four units wide."""
    tables = "".join(f"[[layers]]\nhidden = 4\n{layer}\n" for layer in layers)
    return Source("model.toml", f'name = "{name}"\ninputs = 3\n{tables}{cells}')


def names_of(source: Source, *wrappers: str) -> list[tuple[str, str]]:
    """The name and the class of each cell, in the order of the layers."""
    found = describe(source, wrappers)
    layers = [layer.cell for layer in found.layers if isinstance(layer, CellLayer)]
    return [(cell.name, cell.class_name) for cell in layers or found.cells]


def module_in(folder: Path, made: Module) -> ModuleType:
    path = folder / f"{made.name}.py"
    path.write_text(made.text)
    return imported(path, f"wrapped_{made.name}")


# What runs.


@pytest.mark.parametrize("wrappers", [*((name,) for name in TOYS), (*TOYS, "carried")], ids="+".join)
@pytest.mark.parametrize("name", ["lstm", "gru_v3", "indrnn"])
def test_a_module_computes_the_wrapped_step(name, wrappers, tmp_path):
    module = module_in(tmp_path, compile_model(library()[name], wrappers))
    layer = getattr(module, describe(library()[name], wrappers).cells[0].class_name)
    (wrapped,) = programs_of(describe(library()[name], wrappers).cells, "wrap")
    for run in (_Run(5, 3, 4, 2), _Run(4, 3, 5, 2, {"num_layers": 2, "bidirectional": True}, (4, 1, 3))):
        case = _case(layer, wrapped, "auto", "float64", run, CPU)
        assert not case.failure
        assert {"y", "d_x", OWN} < case.errors.keys()
        assert max(case.errors.values()) <= TOLERANCES["float64"].limit


def test_beside_the_step_without_its_wrapper_a_module_is_wrong(tmp_path):
    """So what judges can tell."""
    module = module_in(tmp_path, compile_model(library()["indrnn"], ["halved"]))
    (plain,) = programs_of(describe(library()["indrnn"]).cells, "wrap")
    assert _case(module.IndRNNHalved, plain, "auto", "float64", _Run(5, 3, 4, 2), CPU).errors["y"] > 0.01


def test_half_a_state_is_half_a_state(tmp_path):
    """Written out by hand, with nothing of rnngen's in it."""
    layer = module_in(tmp_path, compile_model(library()["rnn"], ["halved"])).RNNHalved(3, 4, dtype=torch.float64)
    x, h = torch.randn(5, 2, 3, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    for x_t, y_t in zip(x, layer(x)[0], strict=True):
        h = 0.5 * torch.tanh(
            F.linear(x_t, layer.weight_ih_l0, layer.bias_ih_l0) + F.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)
        )
        torch.testing.assert_close(y_t, h)


def test_the_first_wrapper_is_the_innermost(tmp_path):
    """What is halved is carried, or what is carried is halved."""
    x, found = torch.randn(5, 2, 3, dtype=torch.float64), {}
    for order in (("halved", "carried"), ("carried", "halved")):
        torch.manual_seed(0)
        class_name = "RNN" + "".join(name.title() for name in order)
        layer = getattr(module_in(tmp_path, compile_model(library()["rnn"], order)), class_name)
        found[order] = layer(3, 4, dtype=torch.float64)(x)[0]
        h = carry = torch.zeros(2, 4, dtype=torch.float64)
        torch.manual_seed(0)
        plain = torch.nn.RNNCell(3, 4, dtype=torch.float64)
        for x_t, y_t in zip(x, found[order], strict=True):
            new = plain(x_t, h) * (0.5 if order[0] == "halved" else 1)
            mean = 0.5 * (carry + new - h)
            h, carry = ((h + mean) * 0.5, mean * 0.5) if order[1] == "halved" else (h + mean, mean)
            torch.testing.assert_close(y_t, h)
    assert not torch.allclose(*found.values())


def test_what_a_wrapper_learns_and_carries_is_the_layers(tmp_path):
    """Under names that are new to the cell."""
    text = library()["rnn"].text.replace("act(", "scale * act(").replace("states", "constants = { scale = 2 }\nstates")
    module = module_in(tmp_path, compile_model(Source("rnn.toml", text), ["learned", "carried", "carried"]))
    layer = module.RNNLearnedCarriedCarried(3, 4, 2, initial_state="learned")
    assert layer.scale_1_l0.eq(0.9).all()
    assert {"initial_h", "initial_change", "initial_change_1"} < dict(layer.named_parameters()).keys()


def test_the_command_verify_judges_by_the_wrapped_step(tmp_path):
    """Both processes have the toys, and so a wrapped step on both sides."""
    (tmp_path / "sitecustomize.py").write_text(
        "from rnngen.wrappers import WRAPPERS\nfrom wrappers_for_tests import TOYS\nWRAPPERS.update(TOYS)\n"
    )
    paths = os.pathsep.join(map(str, (tmp_path, TESTS, TESTS.parent)))
    command = "-m rnngen verify indrnn --with learned --with halved --path torch --dtype float64"
    done = subprocess.run(
        [sys.executable, *command.split()], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert (done.returncode, "WRONG" in done.stdout) == (0, False), done.stderr
    assert "IndRNNLearnedHalved, float64" in done.stdout
    assert "d_scale_l0 " in done.stdout


@pytest.mark.parametrize("name", cells.ALL)
def test_without_a_wrapper_the_step_is_left_alone(name):
    found = cells.forms(name)
    assert found["wrap"] is found["unpack"]


# What a file says.


def test_the_key_of_a_layer():
    source = stack('cell = "gru"\nwith = ["halved", "learned"]', 'cell = "gru"', 'cell = "gru"\nwith = []')
    first, *others = describe(source).layers
    assert first.cell.wrappers == ("halved", "learned")
    assert [layer.cell.wrappers for layer in others] == [(), ()]


def test_a_cell_with_a_wrapper_is_a_cell_of_its_own(tmp_path):
    source = stack('cell = "rnn"\nwith = ["halved"]', 'cell = "rnn"', 'cell = "rnn"\nwith = ["halved"]')
    assert names_of(source) == [("rnn_halved", "RNNHalved"), ("rnn", "RNN"), ("rnn_halved", "RNNHalved")]
    made = compile_model(source)
    assert made.text.count("class RNNHalved(Layer)") == made.text.count("class RNN(Layer)") == 1
    module = module_in(tmp_path, made)
    model = module.Model(dtype=torch.float64)
    assert [type(layer).__name__ for layer in model.layers] == ["RNNHalved", "RNN", "RNNHalved"]
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y, _ = model(x)
    y.sum().backward()
    one, two, three = model.layers
    torch.testing.assert_close(y, three(two(one(x)[0])[0])[0])
    assert one(x)[0].abs().max() <= 0.5


def test_other_activations_and_wrappers_are_told_apart():
    layers = [
        'cell = "rnn"\n' + keys
        for keys in (
            'activations = { act = "relu" }\nwith = ["halved"]',
            'activations = { act = "relu" }',
            'activations = { act = "tanh" }\nwith = ["halved"]',
            'with = ["halved", "learned"]',
            'with = ["learned", "halved"]',
        )
    ]
    assert [name for name, _ in names_of(stack(*layers))] == [
        "rnn_relu_halved", "rnn_relu", "rnn_halved", "rnn_halved_learned", "rnn_learned_halved",
    ]  # fmt: skip


CELL = """
[cells.{name}]
states = ["h"]
step   = "h' = tanh({block} @ x + h)"
parameters = {{ W = {{ shape = ["hidden", "inputs"], blocks = ["{block}"] }} }}
"""


def test_a_name_gets_out_of_the_way():
    chosen = 'cell = "rnn"\nwith = ["halved"]'
    own = CELL.format(name="rnn_halved", block="W")
    assert names_of(stack(chosen, 'cell = "rnn_halved"', cells=own))[0] == ("rnn_halved_2", "RNNHalved2")
    assert names_of(stack(chosen, name="RNNHalved")) == [("rnn_halved_2", "RNNHalved2")]


def test_a_name_is_none_of_the_cells_own_functions():
    own = CELL.format(name="unit", block="unit_halved_run")
    assert names_of(stack('cell = "unit"\nwith = ["halved"]', cells=own)) == [("unit_halved_2", "UnitHalved2")]


def test_a_name_is_as_long_as_a_name_may_be():
    long = "a" * (LONGEST_NAME - 3)
    layers = [f'cell = "{long}"\nwith = ["{name}"]' for name in ("halved", "learned", "carried")]
    found = names_of(stack(*layers, cells=CELL.format(name=long, block="W")))
    assert found[0] == (f"{long}_ha", "A" + long[1:] + "Hal")
    assert len({name for pair in found for name in pair}) == 6
    assert all(NAME.fullmatch(name) for pair in found for name in pair)
    text = CELL.format(name="", block="W").replace("[cells.]", f'name = "{"b" * 64}"')
    (alone,) = names_of(Source("a.toml", text), "halved")
    assert alone == ("b" * 62 + "_2", "B" + "b" * 62 + "2")


def test_wrappers_have_names_that_cells_can_end_in():
    for name in WRAPPERS:
        assert re.fullmatch("[a-z]+(_[a-z]+)*", name)
        assert not is_part(f"lstm_{name}", "lstm")


def test_wrappers_count_as_work():
    """Of the passes too: a step may be any number of times as long behind one."""
    long = CELL.replace("+ h", "+ h" + " * h" * 60)
    layers = [f'cell = "unit"\nwith = {["halved"] * number}' for number in range(8)]
    with pytest.raises(ModelError, match="more than 384 operations"):
        describe(stack(*layers, cells=long.format(name="unit", block="W")))


def test_a_mistake_in_a_cell_is_told_once():
    faulty = CELL.format(name="unit", block="W").replace("+ h", "+ x")
    with pytest.raises(ModelError) as caught:
        compile_model(stack('cell = "unit"\nwith = ["halved"]', 'cell = "unit"', cells=faulty))
    assert [mistake.code for mistake in caught.value.mistakes] == ["shape"]


def test_the_nearest_wrapper_is_meant():
    with pytest.raises(ModelError, match="did you mean 'halved'"):
        describe(stack('cell = "rnn"\nwith = ["halve"]'))
    with pytest.raises(ModelError, match=f"the wrappers are {', '.join(WRAPPERS)}\\."):
        describe(stack('cell = "rnn"\nwith = ["zzz"]'))


def test_a_wrapper_without_effect_is_told_where_it_is_named(run):
    Path("unit.toml").write_text(CELL.format(name="unit", block="W").replace("[cells.unit]", 'name = "unit"'))
    result = run("compile", "unit.toml", "--with", "recurrent_dropout")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "The wrapper 'recurrent_dropout' would do nothing to this cell: no matrix of it is applied to what a state is "
        "part of. [no-effect]",
        "Hint: leave out --with recurrent_dropout.",
    ]


# The option.


def test_compile_with(run):
    result = run("compile", "lstm", "--with", "halved", "--with", "carried")
    assert (result.exit_code, result.output) == (0, "wrote lstm_halved_carried.c\nwrote lstm_halved_carried.py\n")
    text = Path("lstm_halved_carried.py").read_text()
    assert text == compile_model(library()["lstm"], ["halved", "carried"]).text
    assert "\n# with halved, then carried\n" in text
    assert "class LSTMHalvedCarried(Layer):" in text
    assert "with halved" not in compile_model(library()["lstm"]).text


@pytest.mark.parametrize("name", ["rnn", "a.toml", "-a.toml", "my cell.toml", "\xe4.toml", "<stdin>"])
def test_the_header_says_how_to_compile_it_again(run, name):
    source = library()["rnn"] if name == "rnn" else Source(name, library()["rnn"].text + "\n")
    text = compile_model(source, ["halved", "carried"]).text
    command = re.search("^# Renew:  (.*)$", text, re.MULTILINE)[1]
    assert command.startswith("rnngen compile --with halved --with carried ")
    assert renewal(text.encode()) == command
    if name in ("rnn", "a.toml", "-a.toml"):
        Path(name).write_text(source.text) if name != "rnn" else None
        assert run(*command.split()[1:]).exit_code == 0
        assert Path("rnn_halved_carried.py").read_text() == text


@pytest.mark.parametrize("option", ["--with 'halved;ls'", "--with=halved", "--with halved --force", "--with $(ls)"])
def test_no_other_option_is_told_to_a_shell(option):
    text = compile_model(library()["rnn"], ["halved"]).text.replace("--with halved", option)
    assert renewal(text.encode()) == "rnngen compile --force MODEL"


@pytest.mark.parametrize("command", ["compile", "show", "explain", "verify"])
def test_names_on_the_command_line(run, command):
    def said(name: str) -> str:
        result = run(command, "lstm", "--with", name)
        assert result.exit_code == 2
        return result.stderr.splitlines()[-1].partition("there is ")[2]

    assert said("halve") == "no wrapper 'halve'; did you mean 'halved'?"
    assert said("zzz") == f"no wrapper 'zzz'; the wrappers are {', '.join(WRAPPERS)}"
    environment = {"_RNNGEN_COMPLETE": "bash_complete", "COMP_WORDS": f"rnngen {command} lstm --with h"}
    completed = run(env=environment | {"COMP_CWORD": "4"}, prog_name="rnngen")
    assert completed.stdout == "plain,halved\n"


@pytest.mark.parametrize("command", ["compile", "show", "explain", "verify"])
def test_a_stack_names_its_wrappers_itself(run, command):
    Path("model.toml").write_text(stack('cell = "lstm"').text)
    result = run(command, "model.toml", "--with", "halved", "--with", "learned")
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'write with = ["halved", "learned"].' in result.stderr
    assert not Path("model.py").exists()


def test_show_and_explain_the_wrapped_step(run):
    shown = run("show", "rnn", "--with", "halved", "--after", "wrap").stdout
    assert shown.startswith("rnn_halved, after wrap\n")
    assert "h'.halved = 0.5 * h'" in shown
    assert "halved = " not in run("show", "rnn", "--with", "halved", "--after", "infer").stdout
    text = as_text(explain_model(library()["rnn"], "sm_90", wrappers=["carried"]))
    assert run("explain", "rnn", "--with", "carried").stdout == text
    assert text.startswith("rnn_carried: 128 units")
