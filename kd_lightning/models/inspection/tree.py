"""Where a model's parameters and bytes are, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Part:
    """A module, or a tensor of its own, and what is below it. Printed, it is a table.

    Attributes:
        name: its name in the module above; of the whole, the class.
        parameters: number of values, of parameters and buffers; each shared tensor counts once, where it comes first.
        bytes: memory of these values.
        trainable: how many of them require a gradient.
        shared_with: path of the tensor that this one is, if that came before.
        parts: what is below it, in order.

    """

    name: str
    parameters: int = 0
    bytes: int = 0
    trainable: int = 0
    shared_with: str | None = None
    parts: list[Part] = field(default_factory=list)

    def find(self, path: str) -> Part:
        """Return a part by its path, such as `encoder.layer.0`.

        Raises:
            KeyError: if there is none.

        """
        part = self
        for name in filter(None, path.split(".")):
            found = next((below for below in part.parts if below.name == name), None)
            if found is None:
                raise KeyError(path)
            part = found
        return part

    def table(self, depth: int | None = None) -> str:
        """Return name, parameters, share of all and mebibytes of each part, down to a depth (None: to each tensor)."""
        rows = [
            ("  " * level + part.name, f"{part.parameters:,}", f"{part._share(self):.1%}", f"{part.bytes / 2**20:.2f}")
            for level, part in self._walk(depth)
        ]
        heads = ("part", "parameters", "share", "MiB")
        widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(4)]
        lines = [
            " ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))])
            + (f"  = {part.shared_with}" if part is not None and part.shared_with else "")
            for row, part in zip([heads, *rows], [None, *(part for _, part in self._walk(depth))], strict=True)
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _walk(self, depth: int | None, level: int = 0) -> Iterator[tuple[int, Part]]:
        yield level, self
        if depth is None or level < depth:
            for part in self.parts:
                yield from part._walk(depth, level + 1)

    def _share(self, whole: Part) -> float:
        return self.parameters / max(whole.parameters, 1)


def parameter_tree(model: nn.Module) -> Part:
    """Return a model's parts with their parameters and memory; weights that are shared count once.

    Args:
        model: any module.

    Example:
        >>> model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False))
        >>> model[1].weight = model[0].weight
        >>> print(parameter_tree(model))
        part       parameters  share  MiB
        Sequential         10 100.0% 0.00
          0                10 100.0% 0.00
            weight         10 100.0% 0.00
          1                 0   0.0% 0.00
            weight          0   0.0% 0.00  = 0.weight

    """
    root, first_seen = Part(type(model).__name__), dict[int, str]()
    for path, tensor in model.state_dict(keep_vars=True).items():
        leaf = _leaf(path, tensor, first_seen)
        _hang(root, path.split("."), leaf)
    return root


def _leaf(path: str, tensor: Tensor, first_seen: dict[int, str]) -> Part:
    name = path.rpartition(".")[2]
    known = first_seen.setdefault(id(tensor), path)
    if known != path:
        return Part(name, shared_with=known)
    count = tensor.numel()
    return Part(name, count, count * tensor.element_size(), count if tensor.requires_grad else 0)


def _hang(part: Part, names: list[str], leaf: Part) -> None:
    """Add a tensor below a part, and its figures to every part on the way."""
    part.parameters += leaf.parameters
    part.bytes += leaf.bytes
    part.trainable += leaf.trainable
    if len(names) == 1:
        part.parts.append(leaf)
        return
    below = next((p for p in part.parts if p.name == names[0]), None)
    if below is None:
        below = Part(names[0])
        part.parts.append(below)
    _hang(below, names[1:], leaf)
