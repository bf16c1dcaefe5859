"""The objective: a named, weighted sum of terms."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd_lightning.core.errors import ConfigError
from kd_lightning.core.types import NAME, Batch, Features, LossReport, ModelInfo, Rows
from kd_lightning.objective.scheme import Scheme
from kd_lightning.objective.term import Term

Terms: TypeAlias = Mapping[str, Term | Scheme | None]


class Objective(nn.Module):
    """What the student is trained for: `total = Σ weight · part`, every weight explicit.

    Args:
        terms: terms and match schemes by name, None for one that is off. Names are letters, digits and underscores, and
            are the same in configs, logs (`train/loss/<name>`) and checkpoints (`objective.terms.<name>.…`).

    Raises:
        ConfigError: if there is no term, a name has other characters, or a value is no term.

    Example:
        >>> from kd_lightning.objective import Match
        >>> objective = Objective({"hard": Term(Match("logits", "labels"), nn.CrossEntropyLoss(), weight=2.0)})
        >>> report = objective({"logits": torch.zeros(3, 2)}, {}, {"labels": torch.tensor([0, 1, 1])})
        >>> round(float(report.total), 3), round(float(report.parts["hard"]), 3)
        (1.386, 0.693)

    """

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        if terms is not None and not isinstance(terms, Mapping):
            raise ConfigError(f"Expected terms by name, such as {{'logits': Term(…)}}, but got {type(terms).__name__}.")
        given = {name: term for name, term in (terms or {}).items() if term is not None}
        if not given:
            raise ConfigError("An objective needs at least one term, such as {'logits': Term(…)}.")
        for name, term in given.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ConfigError(f"Expected a term's name to be letters, digits and underscores but got {name!r}.")
            if not isinstance(term, Term | Scheme):
                raise ConfigError(
                    f"Expected term '{name}' to be a Term or a MatchScheme but got {type(term).__name__}."
                )
        self.declared = given
        self._bound = False
        self.terms = nn.ModuleDict()
        self._add({name: term for name, term in given.items() if isinstance(term, Term)})

    def bind(self, student: ModelInfo, teacher: ModelInfo | None, rows: Rows | None = None) -> Objective:
        """Bind the terms to two models: schemes become terms, addresses and widths are checked, projections are built.

        Args:
            student: what is known of the student.
            teacher: what is known of the teacher, if there is one.
            rows: the rows that are trained on, for losses that ask for them.

        Returns:
            This objective; or, if it is bound already and in use there, a copy with new projections.

        Raises:
            AddressError, MatchError: if a term does not fit; with the name of the first.
            ConfigError: if a scheme makes a term whose name is taken.

        """
        if self._bound:
            fresh = copy.deepcopy(self)
            fresh._bound = False
            return fresh.bind(student, teacher, rows)
        terms: dict[str, Term] = {}
        for name, term in self.declared.items():
            if isinstance(term, Term):  # one that is bound already is in use in another objective
                made = {name: copy.deepcopy(term) if term.is_bound else term}
            else:
                made = term.expand(name, student, teacher)
            if taken := terms.keys() & made.keys():
                raise ConfigError(
                    f"A match scheme makes two terms of one name, '{min(taken)}'. Rename the scheme or the term."
                )
            terms |= made
        for name, term in terms.items():
            term.bind(name, student, teacher, rows)
        self.terms = nn.ModuleDict()
        self._add(terms)
        self._bound = True
        return self

    def _add(self, terms: Mapping[str, Term]) -> None:
        for name, term in terms.items():
            try:
                self.terms[name] = term
            except KeyError as error:
                raise ConfigError(f"A term cannot be named '{name}': {error.args[0]}.") from None

    def named_terms(self) -> dict[str, Term]:
        """Return the terms by name, in order."""
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}

    @property
    def student_addresses(self) -> tuple[str, ...]:
        """Every student address, once, in order."""
        return tuple(dict.fromkeys(a for term in self.named_terms().values() for a in term.student_addresses))

    @property
    def teacher_addresses(self) -> tuple[str, ...]:
        """Every address the teacher must give, once, in order."""
        return tuple(dict.fromkeys(a for term in self.named_terms().values() for a in term.teacher_addresses))

    @property
    def teacher_state(self) -> dict[str, tuple[str, ...]]:
        """What losses ask of the teacher's weights, by address, for a cache to keep."""
        return joined_state(self.named_terms().values())

    @property
    def uses_seed(self) -> bool:
        """Whether any loss makes random choices."""
        return any(term.uses_seed for term in self.named_terms().values())

    @property
    def scheduled(self) -> bool:
        """Whether any weight, or any loss itself, changes over training."""
        return any(term.scheduled for term in self.named_terms().values())

    def projections(self) -> dict[str, nn.Module]:
        """Return the trainable projections by term name."""
        return {name: term.projection for name, term in self.named_terms().items() if term.projection is not None}

    def forward(
        self,
        student: Features,
        teacher: Features,
        batch: Batch,
        progress: float = 0.0,
        across_ranks: bool = False,
        seed: int = 0,
    ) -> LossReport:
        """Evaluate every term, in at least float32 and outside autocast.

        Args:
            student: the student's features by address.
            teacher: the teacher's features by address.
            batch: for labels and masks.
            progress: share of training done, for schedules.
            across_ranks: make every mean exact over all ranks' tokens, and gather the rows of all ranks where a loss
                compares rows with one another, so that averaged gradients are those of one process on the whole batch
                (one small collective, and one for each such term; every rank must call).
            seed: for losses that make random choices: the same seed, the same choices.

        """
        terms = self.named_terms()
        results = {name: term(student, teacher, batch, progress, seed, across_ranks) for name, term in terms.items()}
        parts = {name: part for name, (part, _) in results.items()}
        if across_ranks:
            parts = _exact_over_ranks(parts, [count for _, count in results.values()])
        weights = {name: term.weight_at(progress) for name, term in terms.items()}
        total = torch.stack([parts[name] * weights[name] for name in terms]).sum()
        shown = {f"{name}/{key}": value for name, term in terms.items() for key, value in term.diagnostics.items()}
        return LossReport(total, parts, weights, shown)

    def __repr__(self) -> str:
        shown: Mapping[str, Term | Scheme] = self.named_terms() if self._bound else self.declared
        return "\n".join(["Objective(", *(f"  {name}: {term!r}" for name, term in shown.items()), ")"])


def _exact_over_ranks(parts: dict[str, Tensor], counts: list[Tensor | None]) -> dict[str, Tensor]:
    """Scale each rank's mean by n·W/Σn: the ranks' average is then the mean over all ranks' items."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return parts
    reference = next(iter(parts.values()))
    local = torch.stack([reference.new_ones(()) if n is None else n.detach().to(reference) for n in counts])
    summed = local.clone()
    dist.all_reduce(summed)
    scale = local * dist.get_world_size() / summed.clamp(min=1e-12)
    return {name: part * scale[i] for i, (name, part) in enumerate(parts.items())}


def joined_state(asking: Iterable[Term | Objective]) -> dict[str, tuple[str, ...]]:
    """Return what several terms or objectives ask of the teacher's weights, by address."""
    wanted: dict[str, tuple[str, ...]] = {}
    for one in asking:
        for address, names in one.teacher_state.items():
            wanted[address] = tuple(sorted({*wanted.get(address, ()), *names}))
    return wanted
