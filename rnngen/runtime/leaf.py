"""Modules that torch.fx traces around and not into, as it does with the layers of torch.nn."""

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor, nn
from torch.fx import Proxy, Tracer


class Leaf(nn.Module):
    """A module whose call is one node in a graph of torch.fx; layers and stacks derive from this one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Here and not in `forward`: hooks run when the node does, and would be traced beside it.
        proxy = _proxy_in((*args, *kwargs.values()))
        if proxy is None:
            return super().__call__(*args, **kwargs)
        tracer = cast(Tracer, proxy.tracer)  # that of a module
        path = tracer.path_of_module(self)

        def node(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", path, args, kwargs)

        return tracer.call_module(self, node, args, kwargs)  # which notes the place of the node in the model

    def _refuse_proxy(self, input: object) -> None:
        """Raises TypeError within the `forward` of a module that is traced itself."""
        if isinstance(input, Proxy):
            raise TypeError(
                f"{type(self).__name__}: torch.fx traces around a layer and not into it; trace a module that has it"
            )


def _proxy_in(values: Iterable[object]) -> Proxy | None:
    """A value of torch.fx among arguments and what they hold, None where nothing is traced."""
    for value in values:
        if isinstance(value, Tensor):  # nearly always, and known at once
            continue
        if isinstance(value, Proxy):
            return value
        if isinstance(value, tuple | list) and (found := _proxy_in(value)) is not None:
            return found
    return None
