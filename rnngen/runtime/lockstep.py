"""Programs that wait for one another, in Triton's interpreter, which runs them one after the other.

A kernel that is launched with `launch_cooperative_grid` has each program in a thread of its own here. Only one runs
at a time, up to its next atomic operation; so a program that waits for others by looking again and again lets them go
on.
"""

import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence

from triton.runtime import interpreter

Index = tuple[int, int, int]
Call = tuple[Index, Mapping[str, object]]


class Deadlock(RuntimeError):
    """Every program waits, and none does what another waits for."""


class Stopped(BaseException):
    """Another program of the launch has failed."""


class Launch:
    """The programs of one launch. calls: the place in the grid and the arguments of each."""

    def __init__(self, fn: Callable[..., None], calls: Sequence[Call]):
        self.fn, self.calls = fn, calls
        self.alive = list(range(len(calls)))
        self.current = -1
        self.idle = 0  # atomic operations in a row that changed nothing
        self.failure: BaseException | None = None
        self._turns = [threading.Semaphore(0) for _ in calls]
        self._over = threading.Semaphore(0)

    def run(self) -> None:
        """Run them all. Raises what one of them has raised, or Deadlock."""
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(self._body, program), daemon=True)
            for program in self.alive
        ]
        _running.append(self)
        try:
            for thread in threads:
                thread.start()
            self._pass_on()
            self._over.acquire()
            for thread in threads:
                thread.join()
        finally:
            _running.pop()
        if self.failure is not None:
            raise self.failure

    def changed(self, something: bool) -> None:
        """Note an atomic operation, and let another program go on."""
        self.idle = 0 if something else self.idle + 1
        if self.idle > 100 * len(self.calls):
            raise Deadlock(f"{len(self.alive)} programs wait for one another")
        self.pause()

    def pause(self) -> None:
        """Let another program go on."""
        program = self.current
        self._pass_on()
        self._turns[program].acquire()
        if self.failure is not None:
            raise Stopped

    def choose(self) -> int:
        """Who goes on, of those that have not ended: the next one in the order of the grid."""
        return next((program for program in self.alive if program > self.current), self.alive[0])

    def _body(self, program: int) -> None:
        self._turns[program].acquire()
        try:
            if self.failure is None:
                self.fn(**self.calls[program][1])
        except Stopped:
            pass
        except BaseException as error:  # to be raised where the kernel was launched
            self.failure = self.failure or error
        self.alive.remove(program)
        self.idle = 0
        self._pass_on()

    def _pass_on(self) -> None:
        if not self.alive:
            self._over.release()
            return
        self.current = self.choose()
        interpreter.interpreter_builder.grid_idx = self.calls[self.current][0]
        self._turns[self.current].release()


_running: list[Launch] = []  # the interpreter has one at a time


def running() -> Launch | None:
    """The launch in progress, if one is in lock-step."""
    return _running[-1] if _running else None


class Gathered:
    """A kernel's function that notes its programs, as they are called one by one, and runs them all with the last."""

    def __init__(self, fn: Callable[..., None]):
        self.fn = fn
        self.calls: list[Call] = []
        self.__name__, self.__globals__ = fn.__name__, fn.__globals__
        self.__annotations__, self.__signature__ = fn.__annotations__, inspect.signature(fn)

    def __call__(self, **arguments: object) -> None:
        builder = interpreter.interpreter_builder
        self.calls.append((builder.grid_idx, arguments))
        x, y, z = builder.grid_dim
        if len(self.calls) == x * y * z:
            calls, self.calls = self.calls, []
            Launch(self.fn, calls).run()


def together(execute: Callable[..., None]) -> Callable[..., None]:
    """`GridExecutor.__call__` that runs cooperative programs in lock-step."""
    gathered: dict[Callable[..., None], Gathered] = {}

    def executed(self: interpreter.GridExecutor, *tensors: object, **options: object) -> None:
        fn = self.fn
        if options.get("launch_cooperative_grid"):
            self.fn = gathered.setdefault(fn, Gathered(fn))
            self.fn.calls.clear()
        try:
            execute(self, *tensors, **options)
        finally:
            self.fn = fn

    return executed
