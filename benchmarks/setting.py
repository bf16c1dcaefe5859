"""What a step is made of: models, batch shape, matched layers. Everything a contender needs to be built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.models import SIZES, STUDENT_OF_TINY, Batch, make_batches, make_student, make_teacher

TEMPERATURE = 8.0
RATE = 1e-4
STUDENT_LAYERS = 4
BATCHES = 4  # distinct ones; contenders see them in turn


@dataclass(frozen=True)
class Setting:
    """One way to distil, the same for all contenders: TextBrewer's recipe of `hidden_mse` and `hidden_smmd`.

    Args:
        teacher: its size, a key of `models.SIZES`.
        rows: per batch.
        length: tokens of the longest row.
        padding: share by which the shortest row is shorter.
        matched: number of matched layers, 0 to 5, taken from the top; each has two terms.
        device: where models run.
        compile: compile our teacher and student.
        changes: fields of the teacher's configuration.

    """

    teacher: str = "bert-base"
    rows: int = 16
    length: int = 128
    padding: float = 0.1
    matched: int = 5
    device: str = "cpu"
    compile: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    def make_teacher(self) -> Any:
        """Return the teacher, the same weights every time."""
        longest = {"max_position_embeddings": max(512, self.length)}
        return make_teacher(self.teacher, **longest | self.changes).to(self.device)

    def make_student(self) -> Any:
        """Return the student, the same weights every time, in training mode."""
        return make_student(self.teacher).to(self.device).train()

    def make_batches(self, count: int = BATCHES) -> list[Batch]:
        """Return batches on the CPU; moving them is part of a step."""
        return make_batches(count, self.rows, self.length, self.teacher, self.padding)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Matched layers, (student, teacher); 0 is the embeddings' output."""
        layers = STUDENT_OF_TINY["num_hidden_layers"] if self.teacher == "tiny" else STUDENT_LAYERS
        every = matched_pairs(layers, (SIZES[self.teacher] | self.changes)["num_hidden_layers"])
        return every[max(0, len(every) - self.matched) :]

    @property
    def teacher_addresses(self) -> list[str]:
        """What the teacher must give."""
        return ["logits", *(f"hidden.{t}" for _, t in self.pairs)]


def matched_pairs(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Return evenly spread pairs of layers, (student, teacher), from the embeddings' output, 0, to the last.

    Example:
        >>> matched_pairs(4, 12)
        [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)]

    """
    return [(s, s * teacher_layers // student_layers) for s in range(student_layers + 1)]
