"""What goes into the ReLU of a stage, as a module: an address that knows the batch norm in front of it."""

from __future__ import annotations

from torch import nn


class Preactivation(nn.Identity):
    """Returns what it is given, which a ReLU is applied to next.

    `norm` is the batch norm whose output this is, alone or added to a shortcut: one number of channels, mean and
    deviation for each (Heo et al. 2019 take their margins from it). It is no submodule, so that state dicts and
    parameters have it once; a copy's is the copied one.

    Args:
        norm: the batch norm; None where there is none, or where it has only some of the channels.

    Example:
        >>> norm = nn.BatchNorm2d(4)
        >>> preact = Preactivation(norm)
        >>> preact.norm is norm, list(preact.state_dict())
        (True, [])

    """

    def __init__(self, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self._norm = (norm,)  # a module by itself would be registered as a submodule

    @property
    def norm(self) -> nn.BatchNorm2d | None:
        """The batch norm whose output this is."""
        return self._norm[0]
