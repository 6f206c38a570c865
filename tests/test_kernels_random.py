"""Random cells through the whole road, on the kernels of every schedule they have, in Triton's interpreter."""

import pytest
from along import stretches
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from random_cells import Call, Trial, calls, cells, check, chunks, found_cases, linear_cells

from rnngen.errors import ModelError
from rnngen.runtime.schedules import cooperative

FOUND = {name: (text, call) for name, text, call in found_cases()}


@pytest.fixture(autouse=True)
def _narrow_slices(monkeypatch):
    """Of 8 units, so that cells as narrow as these have several; and of a long enough scan two or three stretches of
    time, each with a chunk or two of its own.
    """
    monkeypatch.setattr(cooperative, "SLICES", (8,))
    with stretches(lambda time: 1 + time % 3):
        yield


def check_schedules(trial: Trial, call: Call) -> None:
    """And that the schedules are all that there can be: heads cannot be scanned apart beside a dense matrix, and where
    matrices are wide, or count twice since states alone are kept, they may not fit the registers of `resident`.
    """
    run = [path for path in check(trial, call) if path not in chunks(call)]
    assert run[-2:] == ["stepwise", "reference"]
    more = ("linear" in run) + ("cooperative" in run)
    assert len(run) == 3 + more or call.heads > 1 or max(call.width, call.rank) > 16 or trial.described.kept == "states"


def drawn(data, strategy, module_of) -> tuple[Trial, Call]:
    """A cell that compiles, and a call of it."""
    text = data.draw(strategy)
    call = data.draw(calls(text))
    try:
        return Trial(text, module_of(text)), call
    except ModelError as error:
        note(str(error))
        reject()


@given(data=st.data())
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_random_cells(data, module_of):
    check_schedules(*drawn(data, cells(), module_of))


@given(data=st.data())
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
def test_random_linear_cells(data, module_of):
    assert "linear" in check(*drawn(data, linear_cells(), module_of))


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name, module_of):
    text, call = FOUND[name]
    check_schedules(Trial(text, module_of(text)), call)
