"""Random cells through the whole road, on the kernels of every schedule they have, in Triton's interpreter."""

import pytest
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from random_cells import Call, Trial, calls, cells, check, found_cases, linear_cells

from rnngen.errors import ModelError

FOUND = {name: (text, call) for name, text, call in found_cases()}


def check_schedules(text: str, module, call: Call) -> None:
    """And that the schedules are all that there can be."""
    run = check(Trial(text, module), call)
    assert run[-2:] == ["stepwise", "reference"]
    assert len(run) == 3 + ("linear" in run) or call.heads > 1  # heads cannot be scanned apart beside a dense matrix


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_random_cells(data, module_of):
    text = data.draw(cells())
    call = data.draw(calls(text))
    try:
        module = module_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    check_schedules(text, module, call)


@given(data=st.data())
@settings(max_examples=10, suppress_health_check=list(HealthCheck))
def test_random_linear_cells(data, module_of):
    text = data.draw(linear_cells())
    call = data.draw(calls(text))
    try:
        module = module_of(text)
    except ModelError as error:
        note(str(error))
        reject()
    assert "linear" in check(Trial(text, module), call)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(name, module_of):
    text, call = FOUND[name]
    check_schedules(text, module_of(text), call)
