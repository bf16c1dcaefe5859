"""When a forward pass may end early: everything asked for has arrived, and nobody waits for more.

What comes deeper in a model is then computed for nothing: the layers above `hidden.4`, or a language model's head. The
pass is ended by an exception in the hook that notes the last feature; this is exact, and the rest does not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.modules import module as modules

from kd_lightning.features.resolver import Resolver


class EarlyStop:
    """Decides whether the passes of one model may end early for some addresses.

    Only features of layers in models of Transformers' own, which run each layer once per pass: of a module path, or of
    a model whose forward is the user's, it cannot be told whether it runs again. The first pass runs to its end and
    shows whether each feature arrived just once. A model that is wrapped, patched or compiled, or has hooks of others,
    who may wait for what comes later, is never stopped, nor is any while all modules are watched.

    Args:
        resolver: knows the model.
        addresses: what is asked for.
    """

    def __init__(self, resolver: Resolver, addresses: Sequence[str]) -> None:
        own = type(resolver.model).__module__.startswith("transformers.")
        layers = bool(addresses) and all(resolver.layer(address) is not None for address in addresses)
        bare = resolver.is_bare and all(node.outer is node.module for node in resolver.nodes.values())
        self._modules = [node.module for node in resolver.nodes.values()]
        self._once: bool | None = None if own and layers and bare else False

    def learn(self, arrivals: Mapping[str, int]) -> None:
        """Take note of how often each feature arrived in a pass that ran to its end."""
        if self._once is None:
            self._once = all(times == 1 for times in arrivals.values())

    def applies(self) -> bool:
        """Return whether the next pass may end early; to be asked before own hooks are put on."""
        return bool(self._once) and not _global_hooks() and all(_is_untouched(module) for module in self._modules)


def _global_hooks() -> bool:
    """Tell whether somebody watches all modules, as profilers do."""
    return bool(modules._global_forward_hooks or modules._global_forward_pre_hooks)


def _is_untouched(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks
    return not hooked and module._compiled_call_impl is None and "forward" not in module.__dict__
