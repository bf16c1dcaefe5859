"""Where a model's parameters and bytes are, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Part:
    """A module or tensor, and the parts of it. Printed, it is a table.

    Attributes:
        name: its name in the module above; for the model itself, the class.
        parameters: number of values, of parameters and buffers; each shared tensor counts once, where it comes first.
        bytes: memory of these values.
        trainable: how many of them require a gradient.
        shared_with: path of the tensor that this one is, if that came before.
        parts: its parts, in order.

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
            child = part._child(name)
            if child is None:
                raise KeyError(path)
            part = child
        return part

    def table(self, depth: int | None = None) -> str:
        """Return name, parameters, share of all and mebibytes of each part, down to a depth (None: to each tensor)."""
        parts = list(self._walk(depth))
        rows = [("part", "parameters", "share", "MiB")]
        for level, part in parts:
            share = part.parameters / max(self.parameters, 1)
            rows.append(("  " * level + part.name, f"{part.parameters:,}", f"{share:.1%}", f"{part.bytes / 2**20:.2f}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        notes = ["", *(f"  = {part.shared_with}" if part.shared_with else "" for _, part in parts)]
        lines = []
        for (name, *figures), note in zip(rows, notes, strict=True):
            cells = [name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(figures, widths[1:], strict=True))]
            lines.append(" ".join(cells) + note)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def _child(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)

    def _walk(self, depth: int | None, level: int = 0) -> Iterator[tuple[int, Part]]:
        yield level, self
        if depth is None or level < depth:
            for part in self.parts:
                yield from part._walk(depth, level + 1)


def parameter_tree(model: nn.Module) -> Part:
    """Return a model's parts with their parameters and memory; shared weights count once.

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
        if not isinstance(tensor, Tensor):  # extra state
            continue
        name, known = path.rpartition(".")[2], first_seen.setdefault(id(tensor), path)
        if known == path:
            count = tensor.numel()
            leaf = Part(name, count, count * tensor.element_size(), count if tensor.requires_grad else 0)
        else:
            leaf = Part(name, shared_with=known)
        _insert(root, path.split("."), leaf)
    return root


def _insert(part: Part, names: list[str], leaf: Part) -> None:
    """Add a tensor below a part, and its figures to every part on the way."""
    part.parameters += leaf.parameters
    part.bytes += leaf.bytes
    part.trainable += leaf.trainable
    if len(names) == 1:
        part.parts.append(leaf)
        return
    below = part._child(names[0])
    if below is None:
        below = Part(names[0])
        part.parts.append(below)
    _insert(below, names[1:], leaf)
