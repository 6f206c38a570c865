"""A plugin: `PRETENDED_GPU=T4 python -m pytest -p tests.on_a_pretended_gpu tests/test_gpu.py` where no GPU is.

Kernels do not run, so the errors that are found count for nothing; everything on the way to them does.
"""

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import judge
from pretended_gpu import CARDS, pretended

_around = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    whole = judge.compare

    def compare(*args, **kwargs):
        return dict.fromkeys(whole(*args, **kwargs), (0.0, 0.0))

    _around.enter_context(mock.patch.object(judge, "compare", compare))
    config.gpu = _around.enter_context(pretended(CARDS[os.environ["PRETENDED_GPU"]]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.gpu.faults:
        raise AssertionError(session.config.gpu.faults[:10])


def pytest_unconfigure() -> None:
    _around.close()
