"""Where the hooks of one tap write what they saw, from the start of a forward pass to its end."""

from __future__ import annotations

from typing import Any, Literal

import torch

State = Literal["idle", "running", "complete", "failed", "taken"]


class AllCollected(Exception):
    """Ends a forward pass of which nothing more is needed."""


class Record:
    """Notes of the model's last forward pass.

    Hooks also fire when gradient checkpointing runs a layer again during backward, or when a part of the model is
    called by itself. The model is not running then, and the record takes no note.
    """

    stop_after: int
    """After how many features the pass is ended by `AllCollected`; 0: never."""

    def __init__(self) -> None:
        self.state: State = "idle"
        self.notes: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self.without_grad: dict[str, bool] = {}
        self.arrivals: dict[str, int] = {}
        self.stop_after = 0
        self.grad = False

    def wipe(self, state: State = "idle") -> None:
        """Forget everything."""
        self.notes.clear()
        self.calls.clear()
        self.without_grad.clear()
        self.arrivals.clear()
        self.state = state

    def begin(self) -> None:
        """Start the notes of a new forward pass."""
        self.wipe("running")
        self.grad = torch.is_grad_enabled()

    def end(self) -> None:
        """Close the notes."""
        self.state = "complete"

    def note(self, address: str, value: Any, final: bool = True) -> None:
        """Keep what a hook saw; a later call within the same pass replaces it.

        Raises:
            AllCollected: with it, all of the `stop_after` features have arrived, each in its final form.

        """
        if self.state == "running":
            self.notes[address] = value
            self.without_grad[address] = self.grad and not torch.is_grad_enabled()
        if final:
            self.settle(address)

    def settle(self, address: str) -> None:
        """Take what was noted for the feature itself; may raise `AllCollected`."""
        if self.state != "running":
            return
        self.arrivals[address] = self.arrivals.get(address, 0) + 1
        if len(self.arrivals) == self.stop_after:
            self.end()
            raise AllCollected

    def call(self, address: str) -> int:
        """Count the calls of modules that run as several layers; returns 1 for the first."""
        self.calls[address] = self.calls.get(address, 0) + 1
        return self.calls[address]
