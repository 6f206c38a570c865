"""Passes one by one: the examples of their docstrings, and that no pass changes what a cell computes."""

from dataclasses import replace

import cells
import pytest
import torch

from rnngen import reference
from rnngen.across import ACROSS
from rnngen.build import Builder
from rnngen.compile import PASSES, forms_of
from rnngen.description import describe
from rnngen.ir import CellGraph, Split, State, Value, prune, reaching
from rnngen.ops import OPS
from rnngen.passes.expand import expand
from rnngen.passes.lower import lower
from rnngen.passes.simplify import simplify, simplify_graph
from rnngen.passes.verify import Malformed, verify
from rnngen.source import Source

every_cell = pytest.mark.parametrize("name", cells.ALL)


def cell_text(step: str, states: str = '"h"', **parameters: str) -> str:
    """A cell of square matrices U and V, an input matrix W and vectors b and d, as far as they are asked for."""
    known = {
        "W": 'weight_ih = { shape = ["hidden", "inputs"], blocks = [%s] }',
        "U": 'weight_hh = { shape = ["hidden", "hidden"], blocks = [%s] }',
        "b": 'bias = { shape = ["hidden"], blocks = [%s] }',
    }
    lines = [known[key] % ", ".join(f'"{block}"' for block in blocks.split()) for key, blocks in parameters.items()]
    return "\n".join(['name = "example"', f"states = [{states}]", f"step = '''\n{step}\n'''", "[parameters]", *lines])


def equations(graph: CellGraph) -> dict[str, str]:
    """Each value by name, written out down to leaves and named values."""
    known = graph.by_name()

    def text(name: str) -> str:
        value = known[name]
        if "." in name or value.op in ("constant", "pick", "slice"):
            return expression(value)
        return name

    def expression(value: Value) -> str:
        if value.op == "constant":
            return f"{value.attribute:g}"
        if value.op in ("input", "state", "parameter"):
            return value.name
        operands = [text(operand) for operand in value.operands]
        if value.op in ("pick", "slice"):
            return f"{operands[0]}[{value.attribute}]"
        sign = {"matmul": "@"}.get(value.op) or (OPS[value.op].sign if value.op in OPS else "")
        return f"({operands[0]} {sign} {operands[1]})" if len(operands) == 2 and sign else f"{value.op}{operands}"

    return {value.name: expression(value) for value in graph.values if "." not in value.name}


# The examples of the docstrings.


def test_simplify_folds_and_drops():
    step = "a = 2 * 3\ne = tanh(h)\nh' = a * e + 0 + W @ x"
    graph = cells.forms(cell_text(step, W="W"))["simplify"].cell
    assert equations(graph)["h'"] == "((6 * e) + (weight_ih @ x))"
    assert "a" not in graph.by_name()


def test_simplify_merges_equal_values():
    step = "a = tanh(h + W @ x)\ne = tanh(h + W @ x)\nh' = a * e"
    graph = cells.forms(cell_text(step, W="W"))["simplify"].cell
    assert equations(graph)["h'"] == "(a * a)"
    assert [value.op for value in graph.values].count("tanh") == 1


@pytest.mark.parametrize("outer", ["kept", "or_zero"])
@pytest.mark.parametrize("inner", ["kept", "or_zero"])
def test_what_is_chosen_by_a_mask_is_not_chosen_twice(inner, outer):
    vector = ("hidden",)
    leaves = (Value("valid", "mask"), *(Value(name, "input", shape=vector) for name in ("a", "b", "new")))
    known = {"kept": ("a", "b"), "or_zero": ()}  # each keeps another old value
    first = Value("first", inner, ("valid", "new", *known[inner][:1]), vector)
    last = Value("last", outer, ("valid", "first", *known[outer][1:]), vector)
    graph = CellGraph("example", (*leaves, first, last), outputs=(("y", "last"),))
    simple = simplify_graph(graph)
    assert len([value for value in simple.values if value.op in ("kept", "or_zero")]) == 1
    given = {name: torch.randn(3, 4) for name in ("a", "b", "new")}
    for mask in ({}, {"valid": torch.tensor([[1], [0], [1]])}):
        found, want = (reference.run(each, given | mask, {}, {})[0]["y"] for each in (simple, graph))
        assert torch.equal(found, want)


def test_pack_makes_one_product():
    step = "i = W_i @ x\nf = W_f @ x\nh' = i * f * h"
    graph = cells.forms(cell_text(step, W="W_i W_f"))["pack"].cell
    found = equations(graph)
    assert found["weight_ih_x"] == "(weight_ih @ x)"
    assert (found["i"], found["f"]) == ("weight_ih_x[0]", "weight_ih_x[1]")


def test_pack_makes_runs_of_neighbours():
    step = "h' = A @ h + B @ h + C @ (D @ h) + W @ x"
    graph = cells.forms(cell_text(step, W="W", U="A B C D"))["pack"].cell
    products = [value for value in graph.values if value.op == "matmul"]
    assert sorted(len(value.shape) for value in products) == [1, 1, 1, 2]


def test_hoist_takes_the_input_and_its_bias_along():
    found = cells.forms(cell_text("h' = W @ x + U @ h + b", W="W", U="U", b="b"))["hoist"]
    (before,) = found.before.outputs
    assert equations(found.before)[before[1]] == "(weight_ih_x + bias)"
    assert equations(found.scan)["h'"] == f"({before[1]} + weight_hh_h)"


def test_hoist_adds_products_of_inputs_before_the_scan():
    """As whole stacks, so that the scan reads one; and a sum of single products is none the less made there."""
    lines = [f"{a} = sigmoid(W_{a} @ x + V_{a} @ lag(x) + Q_{a} @ lag(x, 2) + b_{a})" for a in "ij"]
    lines += ["m = A @ x + B @ lag(x)", "h' = i * tanh(m + U @ h) + j"]
    text = cell_text("\n".join(lines), W="W_i W_j V_i V_j A Q_i Q_j B", U="U", b="b_i b_j")
    found = cells.forms(text)["hoist"]
    assert [leaf.shape for leaf in found.scan.leaves("input")] == [(2, "hidden"), ("hidden",)]
    assert found.scan.leaves("input")[1].name == "m"
    assert sum(value.op == "matmul" for value in found.before.values) == 5


@every_cell
def test_hoist_keeps_the_names_of_equations(name):
    """A sum that was put in another order is still the one that the user named."""
    values = cells.random_values(name, batch=2)
    found = cells.forms(name)["hoist"]
    want = all_named(cells.forms(name)["simplify"].cell, {"x": values.x[0]}, values.states, values.weights)
    got = dict(values.weights)
    for graph in (found.once, found.before, found.scan, found.after):
        got |= all_named(graph, got | {"x": values.x[0]} | values.states, values.states, got)
    for what in got.keys() & want.keys():
        torch.testing.assert_close(got[what], want[what], msg=f"{what}: {{}}".format)
    assert {target for equation in found.equations for target in equation.targets} & want.keys() <= got.keys()


def all_named(graph: CellGraph, inputs: dict, states: dict, parameters: dict) -> dict[str, torch.Tensor]:
    """What every value of a step is, as far as it has a name of its own."""
    names = [value.name for value in graph.values if "." not in value.name]
    names += [name for _, name in graph.outputs if "." in name]  # a later graph takes these
    return reference.run(replace(graph, outputs=tuple(zip(names, names, strict=True))), inputs, states, parameters)[0]


def test_hoist_leaves_the_decoder_for_later():
    found = cells.forms("decoder")["hoist"]
    assert [value.op for value in found.scan.values].count("matmul") == 1
    assert "relu" in {value.op for value in found.after.values}


def test_differentiate_elman():
    found = cells.forms(cell_text("h' = tanh(W @ x + U @ h)", W="W", U="U"))["differentiate"]
    ops = [value.op for value in found.adjoint.values]
    assert ops.count("matmul_t") == 1 and ops.count("matmul") == 0
    assert [state.name for state in found.adjoint.states] == ["d_h"]
    assert len(found.adjoint.outputs) == 1  # the adjoints of both products are one value
    assert found.stream_gradients == (found.adjoint.outputs[0][0],)


def test_expand_goes_into_a_stack():
    """Of what is put side by side for memory every block is there for every element of the batch."""
    values = (
        Value("h", "state", shape=("hidden",)),
        Value("b", "parameter", shape=("hidden",)),
        Value("n", "tanh", ("h",), ("hidden",)),
        Value("both", "stack", ("n", "b"), (2, "hidden")),
    )
    scan = CellGraph("example", values, states=(State("h", "n"),), outputs=(("both", "both"),))
    found = expand(replace(cells.forms("lstm")["differentiate"], scan=scan)).scan
    known = found.by_name()
    n, b = (known[operand] for operand in known[dict(found.outputs)["both"]].operands)
    assert (n.name, b.op, b.operands) == ("n", "expand", ("b", "h"))


def test_lower_expands_softplus():
    text = cell_text("h' = softplus(h) + W @ x", W="W")
    before, after = cells.forms(text)["save"], cells.forms(text)["lower"]
    assert "softplus" in {value.op for value in before.scan.values}
    ops = {value.op for value in after.scan.values}
    assert "softplus" not in ops and {"max", "log1p", "exp", "neg", "abs"} <= ops
    assert lower(after) is after


# What holds of every cell.


@every_cell
def test_no_pass_changes_a_value(name):
    values = cells.random_values(name, time=3, batch=2)
    y, last = cells.whole(name, values)
    for stage, found in cells.forms(name).items():
        if stage == "resolve":
            continue
        if not isinstance(found, Split):
            outputs, states = reference.scan(found.cell, {"x": values.x}, values.states, values.weights)
            got, got_last = torch.cat(list(outputs.values()), -1), states
        else:
            got, got_last = cells.in_parts(found, values)
        torch.testing.assert_close(got, y, rtol=1e-13, atol=1e-13, msg=f"{stage}: {{}}".format)
        for state in last:
            torch.testing.assert_close(got_last[state], last[state], rtol=1e-13, atol=1e-13)


@every_cell
def test_a_graph_serves_one_row_and_many(name):
    values = cells.random_values(name, time=2, batch=3)
    graph = cells.forms(name)["infer"].cell
    outputs, new = reference.run(graph, {"x": values.x[0]}, values.states, values.weights)
    row = {state: value[1] for state, value in values.states.items()}
    one, new_one = reference.run(graph, {"x": values.x[0, 1]}, row, values.weights)
    torch.testing.assert_close(one["y"], outputs["y"][1])
    for state in new:
        torch.testing.assert_close(new_one[state], new[state][1])


@every_cell
def test_simplify_is_done_after_once(name):
    found = cells.forms(name)["simplify"]
    assert simplify(found) is found
    assert simplify_graph(found.cell) == found.cell


@every_cell
def test_simplify_keeps_hold_of_what_is_simple(name):
    """Every graph of the end is in its simplest form, as the builder that made it promises."""
    for stage, graph in cells.program(name).graphs().items():
        if "saved" not in dict(graph.outputs):
            again = simplify_graph(graph)
            assert len(again.values) <= len(graph.values), stage


@every_cell
def test_passes_leave_their_program_alone(name):
    forms = cells.forms(name)
    programs = list(forms.values())[list(forms).index("wrap") :]
    for step, found in zip(PASSES.steps, programs, strict=False):
        shown = repr(found)
        step(found)
        assert repr(found) == shown


@every_cell
def test_passes_are_deterministic(name):
    forms = cells.forms(name)
    programs = list(forms.values())[list(forms).index("wrap") :]
    for step, found, want in zip(PASSES.steps, programs, programs[1:], strict=False):
        assert step(found) == want


@every_cell
def test_the_scan_has_only_products_of_the_state(name):
    found = cells.program(name)
    with_state = reaching(found.scan, {state.name for state in found.scan.states})
    for value in found.scan.values:
        if value.op == "matmul":
            assert value.name in with_state, f"{value.name} could leave the loop"


@every_cell
def test_nothing_before_the_scan_knows_the_state(name):
    found = cells.program(name)
    assert not found.once.states and not found.once.leaves("input")
    assert {leaf.name for leaf in found.before.leaves("input")} <= {"x"}
    states = {state.name for state in found.before.states}
    assert states.isdisjoint(state.name for state in found.scan.states)
    assert states | {state.name for state in found.scan.states} == {state.name for state in found.cell.states}


@every_cell
def test_what_is_after_the_scan_no_state_needs(name):
    found = cells.program(name)
    recurrent = {leaf.name for leaf in found.after.leaves("input")} - {"x"}
    streams = {label for label, _ in found.before.outputs}
    assert recurrent <= streams | set(found.results)
    needed = {v.name for v in prune(replace(found.scan, outputs=())).values if v.op == "matmul"}
    assert needed == {v.name for v in found.scan.values if v.op == "matmul"} or name in (
        "tied",
        "adjoint_names",
    )


@every_cell
def test_only_primitives_are_left(name):
    for graph in cells.program(name).graphs().values():
        assert not [value for value in graph.values if value.op in OPS and OPS[value.op].definition]


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_biases_go_into_the_product(name):
    found = cells.program(name)
    (stream,) = found.before.outputs
    last = found.before.by_name()[stream[1]]
    product, bias = (found.before.by_name()[operand] for operand in last.operands)
    assert (last.op, product.op, bias.op) == ("add", "matmul", "parameter")
    assert last.shape == ({"lstm": 4, "gru": 3}[name], "hidden")
    recurrent = {"lstm": ["weight_hh"], "gru": ["weight_hh", "b_hn"]}[name]
    assert [leaf.name for leaf in found.scan.leaves("parameter")] == recurrent


TAKEN_AWAY = """
name   = "taken_away"
states = ["h"]
step   = "h' = tanh({})"
[parameters]
weight_ih = {{ shape = ["hidden", "inputs"], blocks = ["W"] }}
weight_hh = {{ shape = ["hidden", "hidden"], blocks = ["U"] }}
bias      = {{ shape = ["hidden"], blocks = ["b"] }}
"""


@pytest.mark.parametrize("difference", ["W @ x - b + U @ h", "U @ h - b + W @ x", "U @ h - (b - W @ x)"])
def test_a_bias_that_is_taken_away_goes_into_the_product_too(difference):
    found = cells.program(TAKEN_AWAY.format(difference))
    assert [leaf.name for leaf in found.scan.leaves("parameter")] == ["weight_hh"]


# What the forward scan keeps for its adjoint.


def kept(name: str) -> tuple[set[str], set[tuple[str, str]]]:
    """The values that are stored, as they are written, and what else is read: kinds and names."""
    found = cells.program(name)
    graph = found.scan
    saved = graph.by_name()[dict(graph.outputs)["saved"]].operands if "saved" in dict(graph.outputs) else ()
    written = equations(replace(graph, values=tuple(replace(v, name=v.name) for v in graph.values)))
    named = {value: value if value in written else _written(graph, value) for value in saved}
    read = {(binding.kind, binding.leaf) for binding in found.bindings if binding.kind != "gradient"}
    return set(named.values()), read - {("saved", "saved")}


def _written(graph: CellGraph, name: str) -> str:
    builder = Builder(graph.values)
    alias = builder.keep(replace(graph.by_name()[name], name="written"))
    return equations(replace(graph, values=tuple(builder.values.values())))[alias]


@pytest.mark.parametrize(("op", "made"), [("parameter", "slice"), ("input", "stack")])
def test_blocks_beside_each_other_are_a_part_of_a_stack_in_memory(op, made):
    """Only parameters lie in memory as stacks; of what is computed the blocks are at hand one by one."""
    builder = Builder([Value("s", op, shape=(3, "hidden"))])
    blocks = [builder.make(f"s.{n}", "pick", "s", attribute=n) for n in (1, 2)]
    assert builder.values[builder.make("part", "stack", *blocks)].op == made


def test_lstm_saves_what_people_save():
    assert kept("lstm") == ({"i", "f", "g", "o", "c"}, {("previous", "h")})


def test_gru_saves_what_people_save():
    assert kept("gru") == ({"r", "z", "n", "(b_hn + weight_hh_h[2])"}, {("previous", "h")})


def test_gru_v3_saves_what_people_save():
    assert kept("gru_v3") == ({"r", "z", "n"}, {("previous", "h")})


@pytest.mark.parametrize("name", ["indrnn", "rnn", "rnn_relu"])
def test_the_output_is_enough(name):
    assert kept(name) == (set(), {("previous", "h"), ("output", "h'")})


def test_mingru_keeps_its_input_alone():
    assert kept("mingru") == (set(), {("previous", "h"), ("stream", "weight_ih_x_b")})


LOGARITHM = """
name   = "logarithm"
states = ["h"]
step   = '''
r  = sigmoid(W_r @ x + U_r @ h)
n  = log(h * h) * r
h' = tanh(W @ x + U @ n)
'''
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W_r", "W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U_r"] }
weight_nh = { shape = ["hidden", "hidden"], blocks = ["U"] }
"""


def operands_of_outer(text):
    """Of each product of all steps at once the operation that its second operand is."""
    graph = cells.program(text).gradients
    values = graph.by_name()
    return {v.operands[2]: values[v.operands[1]].op for v in graph.values if v.op == "outer"}


@pytest.mark.parametrize("name", ["gru_v3", "rhn", "mgu", "sgu"])
def test_the_adjoint_gives_what_weights_were_applied_to(name):
    found = cells.program(name)
    assert set(operands_of_outer(name).values()) == {"input"}
    assert not [value for value in found.gradients.values if value.op in OPS or value.op == "or_zero"]
    saved = cells.forms(name)["save"]
    assert (found.scan.outputs, found.bindings) == (saved.scan.outputs, saved.bindings)


def test_what_the_adjoint_gives_is_zero_where_a_step_does_not_count():
    adjoint = cells.program("rhn").adjoint
    values = adjoint.by_name()
    assert {values[dict(adjoint.outputs)[label]].op for label in ("s1", "s2")} == {"or_zero"}


def test_what_takes_more_than_sums_and_products_stays_in_the_gradients():
    assert cells.forms(LOGARITHM)["supply"] is cells.forms(LOGARITHM)["save"]
    assert operands_of_outer(LOGARITHM)["weight_nh"] == "or_zero"


def test_what_the_adjoint_does_not_read_it_does_not_give():
    """A condition has no derivative, so that the adjoint of a tanh does not read the state before it."""
    text = LOGARITHM.replace("n  = log(h * h) * r", "n  = where(h > 0, 1, 0.5)").replace("@ n)", "@ n + r)")
    text = text.replace("r  = sigmoid(", "r  = (")
    assert cells.forms(text)["supply"] is cells.forms(text)["save"]
    assert operands_of_outer(text)["weight_nh"] == "or_zero"


def states_alone(name):
    """The text of a cell that is compiled to keep states alone."""
    return f"{cells.LIBRARY[name]}\n# save states\n"


@pytest.mark.parametrize("name", cells.LIBRARY)
def test_no_product_that_an_adjoint_makes_again_is_in_its_loop(name):
    """It has as many products as where gates are kept, whatever the products that it makes again are of."""
    usual, found = cells.program(cells.LIBRARY[name]), cells.program(states_alone(name))
    assert [v.op for v in found.adjoint.values if v.op == "matmul"] == []
    products = [sum(v.op in ACROSS and ACROSS[v.op].matrix for v in one.adjoint.values) for one in (usual, found)]
    assert products[0] == products[1]
    saved = cells.forms(states_alone(name))["save"]
    assert bool(found.again.values) == any(v.op == "matmul" for v in saved.adjoint.values)
    assert not any(value.op == "matmul" for value in found.gradients.values)


def test_nothing_is_made_again_where_gates_are_kept():
    forms = cells.forms("lstm")
    assert forms["again"] is forms["supply"]
    assert not forms["again"].again.values


def test_what_is_at_hand_and_added_to_a_product_alone_goes_with_it():
    """The adjoint of an LSTM reads as many blocks as where gates are kept; a GRU adds only some blocks."""
    found = cells.program(states_alone("lstm"))
    assert [v.op for v in found.again.values] == ["input", "input", "parameter", "matmul", "add"]
    assert sum(found.backward.facts.streams) == sum(cells.program("lstm").backward.facts.streams) == 6
    gru = cells.program(states_alone("gru")).again
    assert {label: gru.by_name()[value].op for label, value in gru.outputs} == {"weight_hh_h": "matmul"}


def test_a_product_of_what_is_made_of_products_is_made_again_too():
    found = cells.program(states_alone("rhn"))
    assert [label for label, _ in found.again.outputs] == ["weight_hh_h_sum", "weight_2_s1", "weight_3_s2"]
    kinds = {binding.leaf: binding.kind for binding in found.bindings}
    assert {kinds[leaf.name] for leaf in found.again.leaves("input")} == {"again", "previous"}
    assert {kinds[label] for label, _ in found.again.outputs} == {"made"}


TWICE = r"""
name = "twice"
step = "p = U @ h\nh' = tanh(W @ x + V @ p)"
states = ["h"]
output = "h'"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"] }
weight_ph = { shape = ["hidden", "hidden"], blocks = ["V"] }
# save states
"""


def test_what_is_made_again_has_no_name_that_is_taken():
    """Sums without a name of their own, of one stack; and a product that the adjoint gives, since another matrix is
    applied to it.
    """
    found = cells.program(states_alone("mut3"))
    assert [label for label, _ in found.again.outputs] == ["weight_hh_sum", "weight_hh_sum.1", "weight_hh_sum.2"]
    found = cells.program(TWICE)
    given, made = {label for label, _ in found.adjoint.outputs}, {label for label, _ in found.again.outputs}
    assert "p" in given
    assert made == {"p.1"}


@pytest.mark.parametrize("name", ["gru_v3", "mgu"])
def test_an_adjoint_that_is_a_part_of_another_is_written_once(name):
    writes = cells.program(name).backward.writes
    atoms = [atom for write in writes for atom in write.atoms]
    assert len(atoms) == len(set(atoms))


@every_cell
def test_products_are_stored_or_not_needed(name):
    """Nothing that the adjoint reads is a product computed again."""
    found = cells.program(name)
    forward = {value.name for value in found.scan.values if value.op == "matmul"}
    again = {value.name for value in found.adjoint.values if value.op == "matmul"}
    assert not forward & again


# Graphs that are none.


def broken(change) -> CellGraph:
    graph = cells.forms("lstm")["simplify"].cell
    return change(graph, list(graph.values))


def at(values: list[Value], op: str) -> int:
    return next(number for number, value in enumerate(values) if value.op == op)


def with_values(graph: CellGraph, values: list[Value]) -> CellGraph:
    return replace(graph, values=tuple(values))


def changed(where: str, **fields):
    def change(graph, values):
        number = at(values, where)
        values[number] = replace(values[number], **fields)
        return with_values(graph, values)

    return change


def swapped(graph, values):
    first = at(values, "matmul")
    values.append(values.pop(first))
    return with_values(graph, values)


def repeated(graph, values):
    return with_values(graph, [*values, values[-1]])


def bent(graph, values):
    number = at(values, "matmul")
    matrix, _ = values[number].operands
    values[number] = replace(values[number], operands=(matrix, "h"))
    return with_values(graph, values)


MUTATIONS = {
    "use before definition": (swapped, "before its definition"),
    "defined twice": (repeated, "defined twice"),
    "unknown operation": (changed("tanh", op="tangent"), "unknown operation"),
    "a leaf with operands": (changed("input", operands=("h",)), "has operands"),
    "wrong shape": (changed("sigmoid", shape=("inputs",)), "is said to be"),
    "operands that do not fit": (bent, "cannot be applied"),
    "missing output": (lambda graph, _: replace(graph, outputs=(("y", "nothing"),)), "output y is missing"),
    "missing update": (
        lambda graph, _: replace(graph, states=(*graph.states[:1], State("c", "nothing"))),
        "new value",
    ),
    "forgotten state": (lambda graph, _: replace(graph, states=graph.states[:1]), "leaves that are states"),
    "state of another shape": (
        lambda graph, _: replace(graph, states=(graph.states[0], State("c", "x"))),
        "changes its shape",
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_verify_finds(mutation):
    change, message = MUTATIONS[mutation]
    found = cells.forms("lstm")["simplify"]
    assert verify(found) is found
    with pytest.raises(Malformed, match=message):
        verify(replace(found, cell=broken(change)))


def test_verify_finds_an_operation_without_a_derivative(monkeypatch):
    """Its adjoint would be zero, without a word."""
    monkeypatch.setitem(OPS, "tanh", replace(OPS["tanh"], partials=("",)))
    (cell,) = describe(Source("cell.toml", cells.LIBRARY["rnn"])).cells
    with pytest.raises(Malformed, match="the adjoint of h is zero"):
        list(forms_of(cell))


def test_verify_takes_a_product_with_the_first_block_of_a_pack_for_no_zero():
    step = "p = W_1 @ x\nq = W_2 @ x\nh' = p * h + q"
    assert verify(cells.program(cell_text(step, W="W_1 W_2")))


def narrowed(found):
    """The adjoint of the four gates is that of one."""
    ((label, _),) = found.adjoint.outputs
    outputs = ((label, found.adjoint.states[0].name),)
    return replace(found, adjoint=replace(found.adjoint, outputs=outputs))


def swapped_gradients(found):
    (one, first), (other, second), *rest = found.gradients.outputs
    outputs = ((one, second), (other, first), *rest)
    return replace(found, gradients=replace(found.gradients, outputs=outputs))


def zeroed(found):
    to = Builder(found.adjoint.values)
    first, *rest = found.adjoint.states
    zero = to.make("zero", "mul", to.constant(0.0), first.name)
    graph = replace(found.adjoint, values=tuple(to.values.values()), states=(replace(first, update=zero), *rest))
    return replace(found, adjoint=graph)


def packed_state(found):
    pack = Value("saved", "input", shape=(5, "hidden"))
    values = (pack, *(value for value in found.adjoint.values if value.name != pack.name))
    bindings = tuple(replace(b, name="y") if b.kind == "saved" else b for b in found.bindings)
    return replace(found, adjoint=replace(found.adjoint, values=values), bindings=bindings)


ADJOINTS = {
    "a shape": ("lstm", "differentiate", narrowed, "the adjoint of weight_ih_x_b is"),
    "none": ("lstm", "differentiate", lambda found: replace(found, stream_gradients=(None,)), "has no adjoint"),
    "zero": ("lstm", "differentiate", zeroed, "the adjoint of h is zero"),
    "a gradient's shape": ("fastrnn", "differentiate", swapped_gradients, "the adjoint of weight_hh is"),
    "what is read": ("lstm", "save", packed_state, "saved is read as"),
}


@pytest.mark.parametrize("mutation", ADJOINTS)
def test_verify_compares_an_adjoint_with_its_value(mutation):
    name, stage, change, message = ADJOINTS[mutation]
    found = cells.forms(name)[stage]
    assert verify(found) is found
    with pytest.raises(Malformed, match=message):
        verify(change(found))
