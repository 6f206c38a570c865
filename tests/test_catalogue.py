"""What is said of the library's cells is true, and what is shown of them can be used."""

import re
from dataclasses import replace

import pytest

from rnngen.catalogue import as_page, as_text, entries
from rnngen.compile import compiled
from rnngen.description import describe, library
from rnngen.description.size import parameter_count
from rnngen.runtime.schedules import possible
from rnngen.source import Source

ENTRIES = {entry.cell.name: entry for entry in entries(library())}
every_cell = pytest.mark.parametrize("name", library())


def layer(entry):
    """The layer that is shown of a cell."""
    inputs = 64 if entry.wide else 8
    return describe(Source("model.toml", f'name = "shown"\ninputs = {inputs}\n{entry.layer}')).layers[0]


@every_cell
def test_facts_are_those_of_the_module(name):
    """They are found before there is an adjoint, and the kernels come after it."""
    entry = ENTRIES[name]
    (program,) = compiled([entry.cell])
    facts = program.forward.facts
    products = sum(any(across.matrices for across in link.across) for link in program.forward.links)
    assert (entry.products, entry.linear, entry.schedules) == (products, facts.linear, possible(facts))


def test_facts_as_their_papers_have_them():
    assert [ENTRIES[name].products for name in ("indrnn", "lstm", "gru_v3", "rhn")] == [0, 1, 2, 3]
    assert [ENTRIES[name].linear for name in ("mingru", "rg_lru", "brc", "lstm")] == [True, True, False, False]
    assert ENTRIES["mingru"].schedules == ("elementwise", "linear", "stepwise")
    assert ENTRIES["lstm"].schedules == ("resident", "cooperative", "stepwise")
    assert ENTRIES["lstm"].numbers == "4I + 4H + 8"
    assert ENTRIES["block_lstm"].numbers == "4I + 4H/heads + 4"
    assert ENTRIES["fastgrnn"].numbers == "I + H + 2, 2 shared"


@every_cell
def test_the_parameters_of_a_unit_are_those_of_a_layer(name):
    """What is shown, as a formula, is as many numbers as the layer that is shown has."""
    shown = layer(ENTRIES[name])
    formula, _, shared = ENTRIES[name].numbers.partition(", ")
    sizes = {"I": shown.inputs, "H": shown.hidden, "H/heads": shown.hidden // shown.heads, "": 1}
    sizes |= shown.cell.sizes
    terms = [re.fullmatch(rf"([0-9]*) ?({'|'.join(sizes)})", term).groups() for term in formula.split(" + ")]
    a_unit = sum(int(times or 1) * sizes[size] for times, size in terms)
    learned = replace(shown.cell, parameters=tuple(p for p in shown.cell.parameters if p.trained))
    count = parameter_count(replace(shown, cell=learned))
    common = re.fullmatch(r"([0-9]*)(|I)", shared.removesuffix(" shared")).groups()
    assert a_unit * shown.hidden + int(common[0] or 0) * sizes[common[1]] == count


@pytest.mark.parametrize("name", ["block_gru", "lstm"])
def test_the_lines_of_python_run(name, module_of, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, name, module_of(name))
    made: dict = {}
    exec(ENTRIES[name].python, made)
    assert (made["layer"].input_size, made["layer"].hidden_size) == (8, 64)
    assert made["layer"].cell.name == name


WIDE = """
name   = "kept1"
states = ["h"]
inputs = { x = { shape = ["hidden"] }, g = { shape = ["hidden"] }, v = { shape = ["inputs"] } }
step   = "h' = x + W @ x + U @ h + r * h + g * v"
[parameters]
weight_ih = { shape = ["hidden", "inputs"], blocks = ["W"] }
weight_hh = { shape = ["hidden", "hidden"], blocks = ["U"], trained = false, init = "orthogonal" }
r         = { shape = ["hidden"], blocks = ["r"] }
"""


def test_what_no_cell_of_the_library_has_is_shown():
    (cell,) = describe(Source("kept1.toml", WIDE)).cells
    shown = as_text(replace(ENTRIES["rnn"], cell=cell))
    taken = "x, as wide as the states; g, as wide as the states; v, as wide as the states"  # one width
    for words in (taken, " H + 1\n", "orthogonal, not trained", "layer = Kept1(64, 64)"):
        assert words in shown


@every_cell
def test_a_cell_is_shown_as_its_file_has_it(name):
    """Every equation, every block, and no line that a terminal would break."""
    shown = as_text(ENTRIES[name])
    words = set(re.findall(r"[\w']+", shown))
    for line in ENTRIES[name].step.splitlines():
        assert f"  {line}\n" in shown
    for parameter in ENTRIES[name].cell.parameters:
        assert {parameter.name, *parameter.blocks} <= words
    assert f"rnngen cells {name} --source" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_the_page_shows_texts_as_they_are():
    entry = ENTRIES["lstm"]
    loud = replace(entry, cell=replace(entry.cell, note="2**(1 / T) | a <b> [c](d) `e` gru_flux"))
    assert r"2\*\*(1 / T) \| a \<b\> \[c\](d) \`e\` gru_flux" in as_page([loud])
