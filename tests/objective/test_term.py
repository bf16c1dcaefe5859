from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import kd_lightning as kd
from kd_lightning.core.errors import AddressError, ConfigError, MatchError
from kd_lightning.features import model_info

from ..toys import bert, mlp, pairs, words

HIDDEN = kd.Match("0", "0")


class Keeps(nn.Module):
    """Remembers what it was given."""

    def forward(self, student: Any, teacher: Any = None, mask: Any = "no", labels: Any = "no") -> Tensor:
        self.student, self.teacher, self.mask, self.labels = student, teacher, mask, labels
        return torch.zeros(())


def bound(term: kd.Term, student: Any = None, teacher: Any = None) -> kd.Term:
    term.bind("t", model_info(student or mlp(5)), model_info(teacher or mlp(7)))
    return term


def value(term: kd.Term, student: Any, teacher: Any, batch: Any = None, progress: float = 0.0) -> Tensor:
    return term(student, teacher, batch if batch is not None else pairs(), progress)[0]


# -- what a loss is given


def takes_all(student: Tensor, teacher: Tensor, mask: Any, labels: Any, batch: Any, progress: float) -> Tensor:
    assert mask is None
    assert labels is batch[1]
    return student.sum() * progress


def test_a_function_is_given_what_it_names():
    term = kd.Term(HIDDEN, takes_all)
    assert value(term, {"0": torch.ones(2, 2)}, {"0": torch.ones(2, 2)}, progress=0.25) == 1.0


def test_a_loss_is_given_the_rows_ids_and_the_seed_of_the_step():
    seen: list[Any] = []

    def random(student: Tensor, teacher: Tensor, sample_id: Any, seed: int) -> Tensor:
        seen.append((sample_id, seed))
        return student.sum()

    objective = kd.Objective({"a": kd.Term(HIDDEN, random)})
    features = {"0": torch.ones(2, 2)}
    ids = torch.tensor([7, 9])
    objective(features, features, {"sample_id": ids}, seed=5)
    objective(features, features, pairs())
    assert seen == [(ids, 5), (None, 0)]


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        F.mse_loss,
        partial(F.mse_loss, reduction="mean"),
        lambda a, b: (a - b).square().mean(),
        lambda student, teacher, **anything: (student - teacher).square().mean() + len(anything),
        kd.losses.HiddenMSE(),
    ],
    ids=["module", "function", "partial", "lambda", "open", "ours"],
)
def test_losses_of_every_make_are_called_with_what_they_take(loss):
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    torch.testing.assert_close(value(kd.Term(HIDDEN, loss), {"0": a}, {"0": b}), (a - b).pow(2).mean())


def test_a_builtin_function_without_a_signature_is_a_loss_too():
    a, b = torch.ones(4), torch.zeros(4)
    assert value(kd.Term(HIDDEN, torch.dist), {"0": a}, {"0": b}) == 2.0


def test_labels_stand_in_the_teachers_place():
    loss = Keeps()
    batch = pairs()
    value(kd.Term(kd.Match("logits", "labels"), loss), {"logits": torch.zeros(8, 3)}, {}, batch)
    assert loss.teacher is batch[1]
    assert loss.labels is batch[1]


def test_a_match_without_teacher_gives_the_loss_one_tensor():
    loss = Keeps()
    value(kd.Term(kd.Match("loss"), loss), {"loss": torch.tensor(0.5)}, {})
    assert loss.teacher is None


def test_several_addresses_are_given_as_tuples_in_their_order():
    loss = Keeps()
    features = {name: torch.full((1, 2), float(i)) for i, name in enumerate("abc")}
    value(kd.Term(kd.Match(("b", "a"), ("c", "a")), loss), features, features)
    assert [float(x[0, 0]) for x in (*loss.student, *loss.teacher)] == [1, 0, 2, 0]


# -- precision


def dtypes(student: Tensor, teacher: Tensor) -> Tensor:
    assert student.dtype is torch.float32
    assert teacher.dtype is torch.float32
    assert not torch.is_autocast_enabled("cpu")
    return (student - teacher).square().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_loss_a_users_own_too_computes_in_float32_outside_autocast(dtype):
    objective = kd.Objective({"a": kd.Term(HIDDEN, dtypes)})
    student = {"0": torch.ones(2, 2, dtype=dtype, requires_grad=True)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = objective(student, {"0": torch.zeros(2, 2, dtype=torch.bfloat16)}, pairs())
    assert report.total.dtype is torch.float32
    report.total.backward()
    assert student["0"].grad.dtype is dtype


def test_float64_is_not_narrowed():
    x = torch.ones(2, 2, dtype=torch.float64)
    assert value(kd.Term(HIDDEN, nn.MSELoss()), {"0": x}, {"0": x}).dtype is torch.float64


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16], ids=["mixed", "true"])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_projections_take_features_of_any_precision(own, given):
    term = bound(kd.Term(HIDDEN, dtypes, projection="tanh")).to(own)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        report = kd.Objective({"a": term})({"0": torch.ones(2, 5, dtype=given)}, {"0": torch.ones(2, 7)}, pairs())
    report.total.backward()
    assert all(p.grad is not None for p in term.projection.parameters())


class Products(TorchDispatchMode):
    """Notes in which precision matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default):
            self.seen.append(args[-1].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_a_projection_runs_under_the_trainers_autocast_and_the_loss_does_not(given, autocast):
    objective = kd.Objective({"a": bound(kd.Term(HIDDEN, dtypes, projection="linear"))})
    features = {"0": torch.ones(2, 5, dtype=given)}, {"0": torch.ones(2, 7, dtype=torch.bfloat16)}
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), Products() as products:
        report = objective(*features, pairs())
    assert products.seen == [torch.bfloat16 if autocast else torch.float32]
    assert report.total.dtype is torch.float32
    report.total.backward()
    assert objective.terms["a"].projection.weight.grad.dtype is torch.float32


def test_without_autocast_a_projected_value_is_that_of_the_plain_formula():
    term = bound(kd.Term(HIDDEN, kd.losses.HiddenMSE(), projection="linear"))
    x, y = torch.randn(2, 5), torch.randn(2, 7)
    torch.testing.assert_close(value(term, {"0": x}, {"0": y}), nn.functional.mse_loss(term.projection(x), y))


class Raw(kd.losses.DistillationLoss, Keeps):
    widens = True


@pytest.mark.parametrize("wrap", [lambda loss: loss, partial(kd.losses.EMD, student_layers=1, teacher_layers=1)])
@pytest.mark.parametrize(("make", "expected"), [(Keeps, torch.float32), (Raw, torch.bfloat16)])
def test_a_loss_that_widens_by_itself_gets_no_copies(wrap, make, expected):
    loss = make()
    half = {"0": torch.ones(2, 5, dtype=torch.bfloat16)}
    value(kd.Term(HIDDEN, wrap(loss)), half, half)
    assert (loss.student.dtype, loss.teacher.dtype) == (expected, expected)


def own_temperature(student, teacher, base, mask):
    assert student.dtype is torch.float32
    return base + student.detach().abs().amax(-1)


@pytest.mark.parametrize(
    "loss",
    [
        kd.losses.SoftTarget(temperature=2.0, sample_temperature=own_temperature),
        kd.losses.ProbabilityShift(kd.losses.SoftTarget(sample_temperature=kd.schedules.FLSW(beta=1.0))),
        kd.compat.textbrewer.LogitMSE(sample_temperature=own_temperature),
        kd.losses.EMD(nn.MSELoss(), student_layers=1, teacher_layers=1),
    ],
    ids=["own temperature", "shift", "logit mse", "foreign in emd"],
)
def test_half_precision_features_give_the_value_of_their_float32_copies(loss):
    torch.manual_seed(0)
    student, teacher = ({"logits": torch.randn(8, 3, dtype=torch.bfloat16)} for _ in range(2))
    term = kd.Term(kd.Match("logits", "logits"), loss)
    widened = [{"logits": side["logits"].float()} for side in (student, teacher)]
    batch = pairs()
    torch.testing.assert_close(term(student, teacher, batch)[0], term(*widened, batch)[0], rtol=0, atol=0)


# -- projections


def test_a_projection_is_built_from_the_widths_of_the_models():
    term = bound(kd.Term(HIDDEN, nn.MSELoss(), projection="linear"))
    assert term.projection.weight.shape == (7, 5)
    assert [name for name, _ in term.named_parameters()] == ["projection.weight", "projection.bias"]


def test_a_module_given_as_projection_is_used_as_it_is_and_kept_once():
    projection = nn.Linear(5, 7)
    term = bound(kd.Term(HIDDEN, nn.MSELoss(), projection=projection))
    assert term.projection is projection
    assert sorted(term.state_dict()) == ["projection.bias", "projection.weight"]


@pytest.mark.parametrize(("width", "side"), [((6, 7), "takes 6 .* is 5"), ((5, 6), "gives 6 .* is 7")])
def test_a_module_of_other_widths_than_the_models_is_refused_at_setup(width, side):
    with pytest.raises(MatchError, match=rf"Term 't' \(0 ← 0\): .*{side}"):
        bound(kd.Term(HIDDEN, kd.losses.HiddenMSE(), projection=nn.Linear(*width)))


def test_a_module_whose_widths_do_not_tell_is_taken_on_trust():
    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    bound(kd.Term(HIDDEN, kd.losses.HiddenMSE(), projection=Own()))


def test_a_tuple_shares_one_projection():
    torch.manual_seed(0)
    loss = Keeps()
    term = bound(kd.Term(kd.Match(("0", "2:in"), ("0", "2:in")), loss, projection="linear"))
    student = {"0": torch.randn(2, 5), "2:in": torch.randn(2, 5)}
    value(term, student, {"0": torch.zeros(2, 7), "2:in": torch.zeros(2, 7)})
    weight, bias = term.projection.weight, term.projection.bias
    for address, projected in zip(("0", "2:in"), loss.student, strict=True):
        torch.testing.assert_close(projected, student[address] @ weight.T + bias)


def test_a_tuple_of_different_widths_cannot_share_a_projection():
    with pytest.raises(MatchError, match="widths differ: 5, 3"):
        bound(kd.Term(kd.Match(("0", "2"), ("0", "0")), nn.MSELoss(), projection="linear"))


def test_binding_to_other_models_builds_the_projection_anew():
    term = bound(kd.Term(HIDDEN, nn.MSELoss(), projection="linear"))
    assert bound(term, student=mlp(4), teacher=mlp(9)).projection.weight.shape == (9, 4)


# -- checks


def test_different_widths_ask_for_a_projection():
    with pytest.raises(MatchError, match=r"Term 't' \(0 ← 0\).*width is 5 and the teacher's 7.*projection='linear'"):
        bound(kd.Term(HIDDEN, kd.losses.HiddenMSE()))


def test_the_second_pair_of_a_tuple_is_checked_too():
    with pytest.raises(MatchError, match="projection='linear'"):
        bound(kd.Term(kd.Match(("2", "0"), ("2", "0")), kd.losses.FSP()))


def test_losses_of_other_makes_may_compare_any_widths():
    bound(kd.Term(HIDDEN, nn.MSELoss()))


@pytest.mark.parametrize(
    ("match", "words"),
    [
        (kd.Match("hiden.1", "hidden.1"), r"Term 't' \(hiden.1 ← hidden.1\).*Closest: hidden.1"),
        (kd.Match("hidden.1", "hidden.5"), r"'hidden' goes from 0 to 4"),
        (kd.Match("hidden.3", "hidden.1"), r"'hidden' goes from 0 to 2"),
        (kd.Match("logits", "lables"), r"no 'lables'.*The batch's own field is 'labels'"),
    ],
)
def test_an_address_that_a_model_lacks_names_term_and_nearest(match, words):
    with pytest.raises(AddressError, match=words):
        bound(kd.Term(match, nn.MSELoss()), bert(2), bert(4))


def test_a_teacher_that_is_asked_for_must_be_there():
    with pytest.raises(AddressError, match=r"Term 't'.*needs a teacher"):
        kd.Term(HIDDEN, nn.MSELoss()).bind("t", model_info(mlp(5)), None)


def test_a_term_of_labels_needs_no_teacher():
    kd.Term(kd.Match("logits", "labels"), nn.CrossEntropyLoss()).bind("t", model_info(mlp(5)), None)


@pytest.mark.parametrize("weight", ["1.0", float("nan"), float("inf"), None, torch.ones(())])
def test_a_weight_that_is_no_finite_number_is_an_error(weight):
    with pytest.raises(ConfigError, match="`weight`"):
        kd.Term(HIDDEN, nn.MSELoss(), weight=weight)


def test_a_loss_that_cannot_be_called_is_an_error():
    with pytest.raises(ConfigError, match=r"`loss`.*'mse'"):
        kd.Term(HIDDEN, "mse")


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(reduction="none"), lambda s, t: 0.5, lambda s, t: None, lambda s, t: (s.sum(), t)],
    ids=["tensor", "float", "none", "tuple"],
)
def test_a_loss_that_returns_no_scalar_is_an_error(loss):
    objective = kd.Objective({"odd": kd.Term(HIDDEN, loss)})
    with pytest.raises(MatchError, match="scalar"):
        objective({"0": torch.ones(2, 2)}, {"0": torch.ones(2, 2)}, pairs())


def test_a_feature_that_was_not_collected_is_named():
    with pytest.raises(AddressError, match=r"'0' was not collected.*2"):
        value(kd.Term(HIDDEN, nn.MSELoss()), {"2": torch.ones(1)}, {"2": torch.ones(1)})


# -- masks

MASK = words()["attention_mask"]


def mask_for(address: str, shape: tuple[int, ...], batch: Any) -> Any:
    loss = Keeps()
    value(kd.Term(kd.Match(address), loss), {address: torch.zeros(shape)}, {}, batch)
    return loss.mask


SQUARE = {"attention_mask": torch.ones(4, 3), "labels": torch.zeros(4, dtype=torch.long)}


@pytest.mark.parametrize(
    ("address", "shape"),
    [
        ("hidden.1", (4, 6, 16)),
        ("encoder.hidden.1", (4, 6, 16)),
        ("attention.1", (4, 2, 6, 6)),
        ("scores.1", (4, 2, 6, 6)),
        ("query.2", (4, 2, 6, 8)),
        ("start_logits", (4, 6)),
        ("end_logits", (4, 6)),
        ("logits", (4, 6, 3)),
    ],
)
def test_what_has_a_token_axis_is_given_the_mask(address, shape):
    assert torch.equal(mask_for(address, shape, words()), MASK)


@pytest.mark.parametrize(
    ("address", "shape"),
    [("logits", (4, 3)), ("pooler_output", (4, 16)), ("loss", ()), ("logits", (4, 6)), ("x", (4, 6))],
)
def test_what_has_none_is_not(address, shape):
    assert mask_for(address, shape, words()) is None


def test_as_many_classes_as_tokens_do_not_make_a_token_axis():
    assert mask_for("logits", (4, 3), SQUARE) is None
    assert mask_for("start_logits", (4, 3), SQUARE) is not None


def per_token() -> dict[str, Tensor]:
    labels = torch.zeros(4, 6, dtype=torch.long)
    labels[:, 0] = -100
    return words() | {"labels": labels}


def test_tokens_without_a_label_are_left_out_of_logits_only():
    expected = MASK.bool().clone()
    expected[:, 0] = False
    assert torch.equal(mask_for("logits", (4, 6, 3), per_token()), expected)
    assert torch.equal(mask_for("hidden.1", (4, 6, 16), per_token()), MASK)


def test_batches_without_a_mask_or_of_pairs_give_none():
    assert mask_for("hidden.1", (8, 6, 16), pairs()) is None
    assert mask_for("hidden.1", (4, 6, 16), {"input_ids": MASK}) is None


def test_the_students_own_mask_counts_where_the_models_get_different_inputs():
    both = {"student": words(), "teacher": words(length=9)}
    assert torch.equal(mask_for("hidden.1", (4, 6, 16), both), MASK)


def test_labels_beside_the_two_parts_of_a_batch_leave_tokens_out_too():
    inputs = {name: value for name, value in per_token().items() if name != "labels"}
    both = {"student": inputs, "teacher": inputs, "labels": per_token()["labels"]}
    assert torch.equal(mask_for("logits", (4, 6, 3), both), mask_for("logits", (4, 6, 3), per_token()))


def test_garbage_in_padding_changes_neither_loss_nor_gradient():
    term = kd.Term(kd.Match("hidden.1", "hidden.1"), kd.losses.HiddenMSE())
    torch.manual_seed(0)
    clean, target = torch.randn(4, 6, 5), torch.randn(4, 6, 5)
    dirty = clean.clone().masked_fill(MASK[..., None] == 0, float("nan"))
    results = []
    for x in (clean, dirty):
        x.requires_grad_()
        loss = value(term, {"hidden.1": x}, {"hidden.1": target}, words())
        loss.backward()
        results.append((loss.item(), x.grad))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_teacher_and_student_with_other_numbers_of_labels_are_refused_before_the_first_batch():
    term = kd.Objective({"logits": kd.Term(kd.Match("logits", "logits"), kd.losses.SoftTarget())})
    with pytest.raises(MatchError, match=r"the student's width is 2 and the teacher's 3.*number of labels"):
        term.bind(model_info(nn.Sequential(nn.Linear(4, 2))), model_info(nn.Sequential(nn.Linear(4, 3))))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": kd.losses.HiddenMSE}, r"got the class HiddenMSE: write HiddenMSE\(\)"),
        ({"schedule": "linear"}, "a function of progress"),
        ({"schedule": kd.schedules.Cosine}, "a function of progress"),
        ({"projection_lr": -1.0}, "`projection_lr` not to be negative"),
    ],
)
def test_what_is_no_loss_no_schedule_and_no_rate_is_an_error(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        kd.Term(HIDDEN, **{"loss": nn.MSELoss()} | options)


def test_a_built_projection_does_not_map_the_width_of_pictures():
    """An error when the term is bound if the model's structure tells that it gives maps, else at the first batch."""
    student, teacher = (nn.Sequential(nn.Conv2d(3, 6, 3)) for _ in range(2))
    term = kd.Term(kd.Match("0", "0"), nn.MSELoss(), projection="linear")
    picture = torch.randn(2, 6, 6, 6)

    def train() -> None:
        term.bind("t", model_info(student), model_info(teacher))
        term({"0": picture}, {"0": picture}, {})

    with pytest.raises(MatchError, match=r"maps the last axis.*projection='conv'"):
        train()


def test_a_field_that_only_the_output_may_have_asks_for_an_adapter():
    with pytest.raises(AddressError, match=r"no 'scores'.*such a field, give an Adapter\(outputs=…\)"):
        bound(kd.Term(kd.Match("scores", "scores"), nn.MSELoss()), mlp(5), mlp(5))


def test_a_term_is_shown_on_one_line():
    own = kd.Term(HIDDEN, nn.MSELoss(), 0.5, kd.schedules.Cosine(), projection="tanh")
    assert repr(own) == "Term(0 ← 0, MSELoss(), weight=0.5, schedule=Cosine(start=0.0), projection='tanh')"
    linear, start = "(0): Linear(in_features=5, out_features=7, bias=True) (1): Tanh()", repr(own).partition("proj")[0]
    assert repr(bound(own)) == f"{start}projection=Sequential({linear}))"
    emd = kd.losses.EMD(kd.losses.HiddenMSE())
    assert "\n" not in repr(kd.Term(HIDDEN, emd))
    assert repr(kd.Term(kd.Match("loss"), F.mse_loss)) == "Term(loss, mse_loss, weight=1)"


# -- a loss that is bound


class Bound(kd.losses.DistillationLoss):
    """Builds a module of its own from the widths."""

    def bind(self, student, teacher) -> None:
        self.infos = student, teacher
        if teacher:
            self.head = nn.Linear(student[0].width, teacher[0].width)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (self.head(student) - teacher).square().mean()


def test_a_loss_builds_modules_from_the_widths_before_the_optimizer_exists():
    objective = kd.Objective({"a": kd.Term(HIDDEN, Bound())}).bind(model_info(mlp(5)), model_info(mlp(7)))
    assert sorted(objective.state_dict()) == ["terms.a.loss.head.bias", "terms.a.loss.head.weight"]
    assert objective.terms["a"].loss.head.weight.shape == (7, 5)
    assert objective({"0": torch.ones(2, 5)}, {"0": torch.ones(2, 7)}, pairs()).total.requires_grad


def test_a_loss_behind_a_projection_is_told_the_width_that_it_gives():
    own, other = bound(kd.Term(HIDDEN, Bound(), projection="linear")).loss.infos
    assert [info.width for info in (*own, *other)] == [7, 7]


def test_the_batchs_fields_are_no_teacher_features_for_a_loss():
    own, other = bound(kd.Term(kd.Match("0", "labels"), Bound())).loss.infos
    assert ([info.width for info in own], other) == ([5], ())


# -- several pairs, compared one by one


SPANS = ("start_logits", "end_logits")


def spans(rows: int = 3, length: int = 4) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    student, teacher = ({name: torch.randn(rows, length) for name in SPANS} for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
    places = {"start_positions": torch.tensor([0, 2, -100]), "end_positions": torch.tensor([3, -100, -100])}
    return student, teacher, {"attention_mask": mask, **places}


def test_start_and_end_are_compared_each_under_the_mask_and_averaged_over_all_labels():
    student, _, batch = spans()
    term = kd.Term(kd.Match(SPANS, ("start_positions", "end_positions")), kd.losses.HardLabel())
    found, count = term(student, {}, batch)
    masked = {name: x.masked_fill(batch["attention_mask"] == 0, float("-inf")) for name, x in student.items()}
    three = [("start_logits", 0, 0), ("start_logits", 1, 2), ("end_logits", 0, 3)]  # the labels that are none of -100
    expected = -sum(masked[name][row].log_softmax(-1)[place] for name, row, place in three) / 3
    torch.testing.assert_close(found, expected)
    assert count == 3


def test_only_positions_of_a_logits_mask_are_learnt_from_and_get_gradient():
    student, teacher, batch = spans()
    batch["logits_mask"] = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1], [0, 1, 1, 1]])
    term = kd.Term(kd.Match(SPANS, SPANS), kd.losses.SoftTarget(temperature=2.0))
    for x in student.values():
        x.requires_grad_()
    term(student, teacher, batch)[0].backward()
    counted = (batch["logits_mask"] & batch["attention_mask"]).bool()
    for x in student.values():
        assert (x.grad[~counted] == 0).all()
        assert (x.grad[:2][counted[:2]] != 0).all()


def test_logits_of_tokens_without_labels_still_teach_where_a_mask_says_so():
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    batch = {"attention_mask": torch.ones(1, 3), "labels": torch.full((1, 3), -100)}
    term = kd.Term(kd.Match("logits", "logits"), kd.losses.LogitMSE())
    assert value(term, {"logits": logits}, {"logits": torch.ones(1, 3, 2)}, batch) == 0
    batch["logits_mask"] = torch.tensor([[0, 1, 0]])
    value(term, {"logits": logits}, {"logits": torch.ones(1, 3, 2)}, batch).backward()
    assert logits.grad[0].abs().sum(-1).tolist() == [0, 2, 0]


def test_two_halves_of_a_batch_weighed_by_their_counts_are_the_whole():
    student, _, batch = spans()
    term = kd.Term(kd.Match(SPANS, ("start_positions", "end_positions")), kd.losses.HardLabel())
    whole, _ = term(student, {}, batch)
    halves = [
        term({k: v[part] for k, v in student.items()}, {}, {k: v[part] for k, v in batch.items()})
        for part in (slice(0, 1), slice(1, 3))
    ]
    total = sum(count for _, count in halves)
    torch.testing.assert_close(sum(loss * count for loss, count in halves) / total, whole)


def test_a_loss_over_pairs_of_layers_still_gets_them_together():
    loss = Keeps()
    value(kd.Term(kd.Match(("0", "1"), ("0", "1")), loss), {"0": torch.ones(1), "1": torch.zeros(1)}, {"0": 1, "1": 2})
    assert isinstance(loss.student, tuple)


def test_sides_of_different_length_are_an_error():
    term = kd.Term(kd.Match(("0", "2"), "labels"), kd.losses.HardLabel())
    with pytest.raises(MatchError, match="student's 2 features needs one of the teacher's, but there are 1"):
        bound(term)


@pytest.mark.parametrize(
    ("match", "loss", "words"),
    [
        (kd.Match("0"), kd.losses.HiddenMSE(), "HiddenMSE compares two sides, and this match has one"),
        (kd.Match("0", "0"), lambda student: student.sum(), "<lambda> takes the student's side alone"),
        (kd.Match("0", "0"), lambda a, b, other: a, r"<lambda> cannot be called with both sides \(missing a required"),
        (kd.Match("0", "0"), lambda: 0, r"<lambda> cannot be called with both sides \(too many"),
    ],
)
def test_a_loss_of_two_sides_needs_a_match_of_two(match: kd.Match, loss: Any, words: str) -> None:
    with pytest.raises(MatchError, match=rf"Term 't' \(0.*\): the loss {words}"):
        bound(kd.Term(match, loss))
