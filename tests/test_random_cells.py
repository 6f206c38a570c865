"""Cells that nobody thought of, from text to gradients, on the CPU path; and those that once were wrong."""

import re
from collections import Counter
from collections.abc import Callable

import cells as known
import fuzz
import pytest
from hypothesis import HealthCheck, given, note, reject, seed, settings
from hypothesis import strategies as st
from random_cells import AS_WIDE, COUNTER, DERIVED, OTHERS, Call, Trial, calls, cells, check, chunks, found_cases

from rnngen.across import ACROSS, REDUCTIONS
from rnngen.errors import ModelError
from rnngen.ir import CHOICES, VIEWS, CellGraph, Program, blocks_of, dimension_of, origin
from rnngen.runtime import choose
from rnngen.runtime.machine import MACHINES
from rnngen.wrappers import WRAPPERS

NOT_OURS = "/home/me/rnngen/tests/random_cells.py"  # where a checkout has the name of the package
FOUND = {name: (text, call) for name, text, call in found_cases()}


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
def test_random_cells(data, module_of):
    text = data.draw(cells())
    call = data.draw(calls(text))
    try:
        module = module_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    assert check(Trial(text, module), call) == ["torch", *chunks(call), "reference"]


@given(data=st.data())
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@seed(1)
def test_random_cells_in_native_code(data, native_of):
    text = data.draw(cells())
    call = data.draw(calls(text))
    try:
        module = native_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    assert check(Trial(text, module), call) == ["native", *chunks(call), "reference"]


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name, module_of):
    text, call = FOUND[name]
    assert check(Trial(text, module_of(text)), call) == ["torch", *chunks(call), "reference"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in FOUND])
def test_what_was_found_once_in_native_code(name, native_of):
    text, call = FOUND[name]
    assert check(Trial(text, native_of(text)), call) == ["native", *chunks(call), "reference"]


def products(program: Program) -> set[str]:
    return {value.name for value in program.scan.values if value.op in ACROSS}


def a_product_is_an_output(text: str, call: Call, program: Program) -> bool:
    given = {atom.value for write in program.forward.writes for atom in write.atoms}
    given |= {o for v in program.scan.values if v.name in given and v.op in CHOICES for o in v.operands}
    return any(origin(program.scan.by_name(), name)[0].name in products(program) for name in given)


def a_part_of_a_stack_is_in_the_scan(text: str, call: Call, program: Program) -> bool:
    cut = {value.name for value in program.once.values if value.op in VIEWS and "b_" not in value.name}
    return any(leaf.name in cut for leaf in program.scan.leaves("parameter"))


def biases_behind_a_derived_operation(text: str, call: Call, program: Program) -> bool:
    derived = "|".join(form.removesuffix("({})") for form in DERIVED)
    return re.search(rf"^\w+ = ({derived})\(.*\) [+-] \(?\w+( [+-] [bk]_\d)+\)?$", text, re.MULTILINE) is not None


def a_sum_is_a_part_of_a_sum(text: str, call: Call, program: Program) -> bool:
    rights = re.findall(r"^\S+ = (.*)$", text, re.MULTILINE)
    sums = [right for right in rights if " + " in right or " - " in right]
    return any(right.endswith((f" + ({part})", f" - ({part})")) for part in sums for right in rights)


def made_in_the_loop(program: Program) -> bool:
    given = {parameter.name for parameter in program.parameters}
    products = [value for value in program.scan.values if value.op == "matmul"]
    return any(origin(program.scan.by_name(), product.operands[0])[0].name not in given for product in products)


def of_blocks(graph: CellGraph) -> bool:
    values = graph.by_name()
    across = [value for value in graph.values if value.op in ACROSS and not ACROSS[value.op].matrix]
    return any(blocks_of(values[operand].shape) > 1 for value in across for operand in value.operands)


def widths(program: Program) -> set[str]:
    """Of the states of the loop."""
    return {dimension_of(leaf) for leaf in program.scan.leaves("state")}


def first_is_narrow(program: Program) -> bool:
    first, *_ = program.scan.states
    return dimension_of(program.scan.by_name()[first.name]) != "hidden" and "hidden" in widths(program)


# What a draw has, some of which was missed by a generator before this one.
FEATURES: dict[str, Callable[[str, Call, Program], bool]] = {
    "a product is an output of the scan": a_product_is_an_output,
    "a part of a stack is in the scan": a_part_of_a_stack_is_in_the_scan,
    "heads beside a dense matrix": lambda t, c, p: p.forward.facts.mixed and c.heads > 1,
    "no product in the scan": lambda t, c, p: not products(p),
    "linear in its states": lambda t, c, p: p.forward.facts.linear,
    "products in a row": lambda t, c, p: len(p.forward.links) > 2,
    "a product after the scan": lambda t, c, p: any(value.op == "matmul" for value in p.after.values),
    "matrices made of matrices": lambda t, c, p: any(f"{sign} U_" in t for sign in "+-*"),
    "a transpose": lambda t, c, p: ".T" in t,
    "a matrix that is made, in the loop": lambda t, c, p: made_in_the_loop(p),
    "a block-diagonal matrix that is made": lambda t, c, p: made_in_the_loop(p) and bool(p.scan.heads),
    "a stack of matrices that are made": lambda t, c, p: any(v.op == "join" for v in p.once.values),
    "not trained": lambda t, c, p: "trained = false" in t,
    "not trained, in the loop": lambda t, c, p: bool(p.scan.untrained),
    "an input as wide as the states": lambda t, c, p: AS_WIDE in t,
    "a state that needs no loop": lambda t, c, p: bool(p.before.states),
    "one as wide as the input": lambda t, c, p: "inputs" in {d for v in p.before.leaves("state") for d in v.shape},
    "one that is a number": lambda t, c, p: any(v.shape == () for v in p.before.leaves("state")),
    "one behind another": lambda t, c, p: "lag(x, 3)" in t,
    "a state that needs no loop, in sequences": lambda t, c, p: bool(p.before.states and (c.lengths or c.resets)),
    "an earlier step of a state": lambda t, c, p: "lag(h" in t,
    "an earlier step of an equation": lambda t, c, p: "lag(a" in t,
    "more inputs than x": lambda t, c, p: any(f"{name} = {{" in t for name in OTHERS),
    "biases behind a derived operation": biases_behind_a_derived_operation,
    "a sum is a part of a sum": a_sum_is_a_part_of_a_sum,
    "units are summed in the scan": lambda t, c, p: any(v.op in REDUCTIONS for v in p.scan.values),
    "units are summed, and no product": lambda t, c, p: bool(p.forward.facts.sums) and not p.forward.facts.matrices,
    "units of the input are summed": lambda t, c, p: any(v.op in REDUCTIONS for v in p.before.values),
    "a number of the input is read": lambda t, c, p: p.forward.facts.numbers > 0,
    "a number is stored": lambda t, c, p: "saved_numbers" in dict(p.scan.outputs),
    "several blocks at once": lambda t, c, p: "pack_" in t,
    "states by one equation": lambda t, c, p: re.search(r"^h', c' =", t, re.MULTILINE) is not None,
    "a norm of several blocks of the input": lambda t, c, p: of_blocks(p.before),
    "units of several blocks are summed in the loop": lambda t, c, p: (
        of_blocks(p.described) and not of_blocks(p.before)
    ),
    "several blocks at once, with a wrapper": lambda t, c, p: "pack_" in t and bool(p.wrappers),
    "a scaled bias": lambda t, c, p: "* b_" in t,
    "no number at padding": lambda t, c, p: COUNTER in [state.name for state in p.scan.states] and bool(c.lengths),
    "an output as wide as the input": lambda t, c, p: "M_" in t,
    **{f"with {name}": lambda t, c, p, name=name: name in p.wrappers for name in WRAPPERS},
    "a state of another width": lambda t, c, p: widths(p) > {"hidden"},
    "a state of another width, with a wrapper": lambda t, c, p: widths(p) > {"hidden"} and bool(p.wrappers),
    "a state of another width, the first": lambda t, c, p: first_is_narrow(p),
    "nothing hidden wide in the scan": lambda t, c, p: "hidden" not in {d for v in p.scan.values for d in v.shape},
    "masks of several widths": lambda t, c, p: len({one.width for one in p.drawn if one.each == "call"}) > 1,
    "several outputs, with zoneout": lambda t, c, p: len(p.outputs) > 1 and "zoneout" in p.wrappers,
    "earlier steps of a state, with zoneout": lambda t, c, p: "lag(h" in t and "zoneout" in p.wrappers,
    "two wrappers": lambda t, c, p: len(p.wrappers) > 1,
    "several steps": lambda t, c, p: c.time > 1,
    "lengths": lambda t, c, p: bool(c.lengths),
    "resets": lambda t, c, p: bool(c.resets),
    "resets, with lengths": lambda t, c, p: bool(c.resets and c.lengths),
    "resets, both directions": lambda t, c, p: bool(c.resets) and c.bidirectional,
    "reversed": lambda t, c, p: c.reverse,
    "reversed, with lengths": lambda t, c, p: c.reverse and bool(c.lengths),
    "bidirectional": lambda t, c, p: c.bidirectional,
    "states kept alone": lambda t, c, p: p.kept == "states" and bool(products(p)),
    "states kept alone, with a wrapper": lambda t, c, p: p.kept == "states" and bool(p.wrappers),
    "states kept every few steps": lambda t, c, p: c.save != "" and c.time > 2,
    "two layers": lambda t, c, p: c.num_layers > 1,
    "projected": lambda t, c, p: c.proj_size > 0,
    "beyond a tile": lambda t, c, p: c.batch > 8 or c.hidden > 16,
}


def test_draws_are_cells_of_every_kind():
    """A strategy whose draws were all rejected, or alike, would test nothing. What is rare is looked for longer."""
    tally: Counter[str] = Counter()

    @given(data=st.data())
    @settings(max_examples=250, database=None, suppress_health_check=list(HealthCheck))
    def draw(data):
        text = data.draw(cells())
        call = data.draw(calls(text))
        try:
            program = known.program(text)
        except ModelError:
            tally["rejected"] += 1
            return
        tally["accepted"] += 1
        tally.update(name for name, has in FEATURES.items() if has(text, call, program))

    for number in range(8):
        seed(number)(draw)()
        missed = [name for name in FEATURES if tally[name] < 3]
        if not missed:
            break
    assert not missed
    assert tally["accepted"] >= 4 * tally["rejected"]


def test_failures_are_told_apart_by_their_place_in_the_package():
    def kind(text: str) -> str:
        try:
            exec(compile(text, NOT_OURS, "exec"), vars(choose) | {"MACHINES": MACHINES})
        except ValueError as error:
            return fuzz._kind(error)
        raise AssertionError("nothing failed")

    assert kind("raise ValueError") == "ValueError"
    assert kind("choose(Facts(), Sizes(1, 1), MACHINES['sm_90'], 'none')") == "NotPossible in choose.py, choose"
