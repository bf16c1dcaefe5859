"""Where the hooks of one tap write what they saw, from the start of a forward pass to its end."""

from __future__ import annotations

from typing import Any, Literal

import torch

State = Literal["idle", "running", "complete", "failed", "taken"]


class Board:
    """Notes of the model's last forward pass.

    Hooks also fire when gradient checkpointing runs a layer again during backward, or when a part of the model is
    called by itself. The model is not running then, and the board takes no note.
    """

    def __init__(self) -> None:
        self.state: State = "idle"
        self.notes: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self.without_grad: dict[str, bool] = {}
        self.grad = False

    def wipe(self, state: State = "idle") -> None:
        """Forget everything."""
        self.notes.clear()
        self.calls.clear()
        self.without_grad.clear()
        self.state = state

    def begin(self) -> None:
        """Start the notes of a new forward pass."""
        self.wipe("running")
        self.grad = torch.is_grad_enabled()

    def end(self) -> None:
        """Close the notes."""
        self.state = "complete"

    def note(self, address: str, value: Any) -> None:
        """Keep what a hook saw; a later call within the same pass replaces it."""
        if self.state == "running":
            self.notes[address] = value
            self.without_grad[address] = self.grad and not torch.is_grad_enabled()

    def call(self, address: str) -> int:
        """Count the calls of modules that run as several layers; returns 1 for the first."""
        self.calls[address] = self.calls.get(address, 0) + 1
        return self.calls[address]
