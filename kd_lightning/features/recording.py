"""What Transformers code says of its `hidden_states`, for models that have no table of what they record.

Most encoders append the input of every layer to a tuple, and behind the loop what they return. Then a layer's input is
`hidden_states[k]`. Some append otherwise (Mamba after each layer, and no embeddings), or cut the tuple afterwards
(Longformer, which pads its input): there, a layer's tensors are not what the model calls its hidden states.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

NO_EMBEDDINGS = "its recorded hidden states do not start with the embeddings"
PARTS = "its recorded hidden states are parts of what its layers compute, such as those without padding"
UNKNOWN = "which tensors its recorded hidden states are cannot be told from its code"


def returns_last(kind: type) -> bool:
    """Return whether a class's forward returns a `last_hidden_state`."""
    return "last_hidden_state" in _returned(_forward(kind))


@cache
def refusal(kind: type) -> str:
    """Return why the inputs of a Transformers class's layers are not its hidden states, empty if they are.

    Example:
        >>> from transformers.models.mamba.modeling_mamba import MambaModel
        >>> from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
        >>> refusal(MPNetEncoder), refusal(MambaModel)
        ('', 'its recorded hidden states do not start with the embeddings')

    """
    forward = _forward(kind)
    name = _returned(forward).get("hidden_states")
    if not isinstance(name, ast.Name):
        return UNKNOWN
    changes: list[Any] = [node for node in ast.walk(forward) if _assigns(node, name.id)]
    loop = next((node for node in ast.walk(forward) if isinstance(node, ast.For) and _within(changes, node)), None)
    if loop is None:
        return UNKNOWN
    appended = [_appended(node) for node in changes]
    if not all(isinstance(value, ast.Name) for value in appended if value is not None):
        return PARTS
    first = min(node.lineno for node in _within(changes, loop))
    start = any(v is not None and node.lineno < loop.lineno for node, v in zip(changes, appended, strict=True))
    return "" if start or first < _first_call(loop) else NO_EMBEDDINGS


def _forward(kind: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(kind.forward))))


def _returned(forward: ast.AST) -> dict[str | None, ast.expr]:
    """Return the named fields of the output that a forward makes and returns."""
    calls = [node.value for node in ast.walk(forward) if isinstance(node, ast.Return)]
    return {word.arg: word.value for call in calls if isinstance(call, ast.Call) for word in call.keywords}


def _assigns(node: ast.AST, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_assignment = isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign)
    return is_assignment and any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _appended(node: Any) -> ast.expr | None:
    """Return what an assignment adds to the tuple; None where it makes an empty one."""
    value = node.value.body if isinstance(node.value, ast.IfExp) else node.value
    value = value.right if isinstance(value, ast.BinOp) else value
    if isinstance(value, ast.Tuple):
        return value.elts[0] if value.elts else None
    return None if isinstance(value, ast.Constant) else value


def _within(nodes: list[Any], loop: ast.For) -> list[Any]:
    return [node for node in nodes if loop.lineno < node.lineno <= (loop.end_lineno or 0)]


def _first_call(loop: ast.For) -> int:
    """Return the line of the first call of what a loop runs over."""
    names = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    return min(_calls(loop, names), default=loop.end_lineno or 0)


def _calls(loop: ast.For, names: set[str]) -> Iterator[int]:
    for node in ast.walk(loop):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node.lineno
