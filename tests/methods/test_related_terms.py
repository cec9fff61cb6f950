# SPDX-License-Identifier: Apache-2.0
"""What the related systems' parts compute, against the plain formula, and what they refuse."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandAdjustContrastd, RandScaleIntensityd, RandShiftIntensityd
from monai.utils import convert_to_tensor
from torch import nn

from scripts.data import FastRandGaussianNoised, FastRandGaussianSmoothd
from scripts.errors import DataError
from scripts.losses import ConflictFreeGradient
from scripts.methods import (
    Confident,
    ConflictFree,
    CutMix,
    Method,
    OfBetterNetwork,
    OneTeacher,
    Pair,
    Prediction,
    PseudoLabels,
    SelfTeacher,
    Step,
    StrongView,
    Voting,
)
from scripts.methods.terms import (
    Affinity,
    AlternateTeaching,
    Discrepancy,
    FeaturePerturbed,
    MaskedReconstruction,
    QueryAlignment,
    RectifiedViews,
    Supervised,
    TemporalAgreement,
    UncertainPairs,
    VoxelContrast,
    WeakToStrong,
)
from scripts.methods.terms.related.heads import Heads
from scripts.methods.terms.views import from_partner
from scripts.networks import DualNetwork

from .make import supervised_loss

CLASSES = 3
SIZE = (8, 8, 8)


class Subnet(nn.Module):
    """Logits and features from a convolution each; it notes what it was shown, and in which mode."""

    def __init__(self):
        super().__init__()
        self.bottleneck_dropout = nn.Conv3d(1, 4, 1)
        self.classifier = nn.Conv3d(4, CLASSES, 1)
        self.shown = []
        self.modes = []

    def forward_features(self, x):
        self.shown.append(x)
        self.modes.append(self.training)
        features = self.bottleneck_dropout(x)
        return self.classifier(features), features


def make_network():
    torch.manual_seed(0)
    network = DualNetwork(Subnet(), Subnet())
    with torch.no_grad():
        for subnet in (network.a, network.b):
            subnet.classifier.weight *= 10
    return network


@pytest.fixture
def batches():
    torch.manual_seed(1)
    labeled = {"image": torch.randn(2, 1, *SIZE), "label": torch.randint(0, CLASSES, (2, 1, *SIZE))}
    return labeled, {"image": torch.randn(3, 1, *SIZE), "weak": torch.randn(3, 1, *SIZE)}


def make_step(batches, terms, network=None, progress=1.0, **parts):
    method = Method({"supervised": Supervised(supervised_loss()), **terms}, **parts)
    return Step(method, network or make_network(), *batches, progress)


def softmax(logits):
    return logits.detach().double().softmax(1).numpy()


# --- views


def test_a_strong_view_varies_intensities_image_by_image_and_follows_torchs_seed():
    image = torch.randn(4, 2, *SIZE)
    vary = StrongView(prob=1.0)
    torch.manual_seed(5)
    first, second = vary(image), vary(image)
    torch.manual_seed(5)
    np.random.seed(99)
    assert torch.equal(vary(image), first) and not torch.equal(second, first)
    assert type(first) is torch.Tensor and first.shape == image.shape and first.dtype == image.dtype
    same = vary(image[:1].expand(2, -1, -1, -1, -1))
    assert not torch.equal(same[0], same[1])
    assert torch.equal(StrongView(prob=0.0)(image), image)


def test_a_strong_view_is_that_of_monais_transforms():
    image = torch.randn(3, 1, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(5)
    varied = StrongView(prob=1.0)(image)
    torch.manual_seed(5)
    expected = Compose(
        [
            FastRandGaussianNoised("image", 1.0, std=0.3),
            FastRandGaussianSmoothd("image", *[(0.5, 1.0)] * 3, prob=1.0),
            RandScaleIntensityd("image", 0.35, 1.0),
            RandShiftIntensityd("image", 0.3, prob=1.0),
            RandAdjustContrastd("image", 1.0, (0.65, 1.6), retain_stats=True),
        ]
    ).set_random_state(int(torch.randint(2**31 - 1, ())))
    for one, before in zip(varied, image, strict=True):
        torch.testing.assert_close(
            one, convert_to_tensor(expected({"image": before})["image"], track_meta=False), rtol=1e-5, atol=2e-6
        )


@pytest.mark.parametrize("size", [(16, 12, 8), (16, 12)])
def test_cutmix_takes_a_box_of_the_image_before(size):
    torch.manual_seed(0)
    image = torch.arange(3.0).view(3, 1, *[1] * len(size)).expand(3, 1, *size)
    boxes = CutMix(prob=1.0, volume=(0.1, 0.3))(image)
    mixed = from_partner(image, boxes)
    for item in range(3):
        assert torch.equal(mixed[item] == (item - 1) % 3, boxes[item])
        inside = boxes[item, 0].nonzero()
        lengths = inside.max(0)[0] - inside.min(0)[0] + 1
        assert math.prod(lengths.tolist()) == len(inside)  # a box
        assert 0.04 < len(inside) / math.prod(size) < 0.45
    assert not CutMix(prob=0.0)(image).any()
    with pytest.raises(ValueError, match="prob must be in"):
        CutMix(volume=(0.5, 1.0))


# --- teachers and labelers


def test_a_network_that_teaches_itself_sees_the_weak_view_and_gets_no_gradient(batches):
    step = make_step(batches, {})
    taught = SelfTeacher()(step)
    assert torch.equal(step.network.a.shown[-1], batches[1]["weak"])
    assert not taught.a.logits.requires_grad
    assert torch.equal(taught.b.logits, step.network.b.forward_features(batches[1]["weak"])[0])


def test_under_autocast_a_network_that_has_taught_itself_still_learns(batches):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        step = make_step(batches, {})
        SelfTeacher()(step)
        loss = step.network(batches[0]["image"]).a.logits.float().square().mean()
    loss.backward()
    assert step.network.a.classifier.weight.grad.abs().sum() > 0


def test_one_teacher_teaches_both(batches):
    step = make_step(batches, {})
    for name in "ab":
        a, b = OneTeacher(SelfTeacher(), name)(step)
        assert a is b and torch.equal(a.logits, getattr(SelfTeacher()(step), name).logits)
    with pytest.raises(ValueError, match="network must be"):
        OneTeacher(SelfTeacher(), "c")


def test_confident_labels_are_each_teachers_own_and_the_threshold_rises(batches):
    teachers = Pair(*(Prediction(2 * torch.randn(2, CLASSES, *SIZE)) for _ in range(2)))
    for progress, threshold in ((0.0, 0.5), (0.5, 0.7), (1.0, 0.9)):
        step = make_step(batches, {}, progress=progress)
        for teacher, own in zip(teachers, Confident(0.5, rise_to=0.9)(step, teachers), strict=True):
            p = softmax(teacher.logits)
            assert np.array_equal(own.labels.numpy()[:, 0], p.argmax(1))
            assert np.array_equal(own.mask.numpy()[:, 0], p.max(1) >= threshold)


def test_the_better_network_labels_for_both_and_the_terms_still_learn(batches):
    terms = {"weak": UncertainPairs()}
    step = make_step(batches, terms, labeler=OfBetterNetwork(0.2))
    known = nn.functional.one_hot(batches[0]["label"][:, 0], CLASSES).movedim(-1, 1).float()
    vars(step)["_outputs"] = {
        "labeled": Pair(Prediction(-known), Prediction(9 * known)),
        "unlabeled": Pair(*(Prediction(torch.randn(3, CLASSES, *SIZE, requires_grad=True)) for _ in range(2))),
    }
    a, b = step.pseudo_labels
    assert a is b
    assert torch.equal(a.labels, step.on_unlabeled.b.logits.argmax(1, keepdim=True))
    assert 0.8 <= a.mask.float().mean() < 1
    assert step.on_unlabeled.a.p.requires_grad


def test_three_of_four_votes_decide(batches):
    sure = {c: 9.0 * nn.functional.one_hot(torch.full((1, 1), c), CLASSES).movedim(-1, 1).float() for c in range(3)}
    step = make_step(batches, {})
    vars(step)["_outputs"] = {"unlabeled": Pair(Prediction(sure[2]), Prediction(sure[2]))}
    teachers = Pair(Prediction(sure[2]), Prediction(sure[0]))
    labels, mask, _ = Voting(3)(step, teachers).a
    assert labels.tolist() == [[[2]]] and mask.tolist() == [[[True]]]
    assert not Voting(4)(step, teachers).a.mask.any()
    with pytest.raises(ValueError, match="from 1 to 4"):
        Voting(5)


# --- weak to strong


def fixed_labels(step, teachers):
    return Pair(*(PseudoLabels(t.logits.argmax(1, keepdim=True), t.logits[:, :1] > 0) for t in teachers))


def test_weak_to_strong_learns_mixed_labels_and_divides_by_all_voxels(batches):
    term = WeakToStrong(views=2, cutmix=1.0, vary=StrongView(prob=0.0))
    step = make_step(batches, {"strong": term}, labeler=fixed_labels, teacher=SelfTeacher())
    losses = term(step)
    shown = step.views[term].image
    weak = batches[1]["weak"]
    for name in "ab":
        network = getattr(step.network, name)
        total = 0.0
        for view in shown.split(3):
            boxed = view != weak
            taught = network.forward_features(weak)[0]
            labels = torch.where(boxed, taught.argmax(1, keepdim=True).roll(1, 0), taught.argmax(1, keepdim=True))
            counts = torch.where(boxed, (taught[:, :1] > 0).roll(1, 0), taught[:, :1] > 0).numpy()
            p = softmax(network.forward_features(view)[0])
            total += (-np.log(np.take_along_axis(p, labels.numpy(), 1)) * counts).mean() / 2
        assert getattr(losses, name).item() == pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="views must be at least 1"):
        WeakToStrong(views=0)


def test_perturbed_features_lose_channels_in_their_own_pass_only(batches):
    network = make_network()
    seen = []
    for subnet in (network.a, network.b):
        subnet.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    term = FeaturePerturbed(network, drop=0.5)
    step = make_step(batches, {"perturbed": term}, network, labeler=fixed_labels, teacher=SelfTeacher())
    step.pseudo_labels  # noqa: B018
    seen.clear()
    torch.manual_seed(0)
    term(step)
    gone = torch.cat(seen).flatten(2).abs().sum(2) == 0
    assert 0.2 < gone.float().mean() < 0.8  # of 24 channels
    seen.clear()
    network(batches[1]["weak"])
    assert not (torch.cat(seen).flatten(2).abs().sum(2) == 0).any()
    assert not term.state_dict() and not list(term.parameters())  # the networks are no part of the method
    with pytest.raises(ValueError, match="Network a, a Subnet, has no layer 'top'"):
        FeaturePerturbed(network, layer="top")


def test_perturbed_features_may_be_those_of_the_last_strong_view(batches):
    network = make_network()
    strong, term = WeakToStrong(views=2, cutmix=1.0), FeaturePerturbed(network, drop=0.5, views="strong")
    terms = {"strong": strong, "perturbed": term}
    step = make_step(batches, terms, network, labeler=fixed_labels, teacher=SelfTeacher())
    image, labels = step.views[strong].image[3:], step.views[strong].target
    with term._dropping():
        torch.manual_seed(2)
        logits = [subnet.forward_features(image)[0] for subnet in (network.a, network.b)]
    torch.manual_seed(2)
    for loss, said, own in zip(term(step), logits, labels, strict=True):
        chosen = np.take_along_axis(softmax(said), own.labels[3:].numpy(), 1)
        assert loss.item() == pytest.approx((-np.log(chosen) * own.mask[3:].numpy()).mean(), rel=1e-4)
    wrong = FeaturePerturbed(network, views="other")
    with pytest.raises(ValueError, match="supervised, strong, perturbed; got other"):
        wrong(step)


# --- views and contrast


def test_rectified_views_are_taught_by_the_plain_images_and_nothing_moves_for_equal_views(batches):
    term = RectifiedViews(vary=StrongView(prob=0.0), gamma=1.0)
    step = make_step(batches, {"rectified": term})
    losses = term(step)
    images = step.views[term].image
    assert torch.equal(images[:5], torch.cat([batches[0]["image"], batches[1]["weak"]]))
    for name in "ab":
        z = getattr(step.network, name).forward_features(images[:5])[0]
        p, sharp = softmax(z), softmax(2 * z)
        # no divergence between equal views: the soft cross entropy of both, and a cosine of 1
        assert getattr(losses, name).item() == pytest.approx(2 * -(sharp * np.log(p)).sum(1).mean(), rel=1e-4)


def test_contrast_reads_the_views_of_the_term_it_names(batches):
    views = RectifiedViews()
    step = make_step(batches, {"views": views, "contrast": VoxelContrast(4, views="views")})
    losses = step.terms["contrast"](step)
    assert all(loss > 0 for loss in losses)
    wrong = make_step(batches, {"views": views, "contrast": VoxelContrast(4, views="rectified")})
    with pytest.raises(ValueError, match="supervised, views, contrast; got rectified"):
        wrong.terms["contrast"](wrong)


def test_heads_of_another_width_say_what_to_set():
    with pytest.raises(ValueError, match="Network b has features of 16 channels.*set feature_channels"):
        Heads(8, 4).project("b", torch.zeros(1, 16, 4, 4, 4))


# --- affinity


def test_affinity_within_is_zero_for_a_teacher_that_says_the_same_and_across_spreads_labels(batches):
    unvaried = {"weak_to_strong": WeakToStrong(vary=StrongView(prob=0.0), cutmix=0.0)}
    terms = {**unvaried, "within": Affinity(stride=4), "across": Affinity(stride=4, across=True)}
    step = make_step(batches, terms, labeler=fixed_labels, teacher=SelfTeacher())
    assert [loss.item() for loss in terms["within"](step)] == pytest.approx([0, 0], abs=1e-9)
    across = terms["across"](step)
    assert all(loss > 0 for loss in across)
    # with labels that are what the networks say, nothing is to be learnt across images either
    agreeing = {"image": batches[0]["image"], "label": batches[0]["label"]}
    step = make_step((agreeing, batches[1]), terms, labeler=fixed_labels, teacher=SelfTeacher())
    known = step.on_labeled.a
    known.logits = 20.0 * nn.functional.one_hot(step.label[:, 0], CLASSES).movedim(-1, 1).float()
    assert terms["across"](step).a.item() < across.a.item() / 100


def test_affinity_refuses_views_that_show_other_voxels(batches):
    terms = {"weak_to_strong": WeakToStrong(cutmix=0.5), "within": Affinity()}
    step = make_step(batches, terms, labeler=fixed_labels, teacher=SelfTeacher())
    with pytest.raises(ValueError, match="no cutmix, got weak_to_strong"):
        terms["within"](step)


# --- ERDA


def test_queries_learn_labels_and_align_with_predictions(batches):
    torch.manual_seed(0)
    term = QueryAlignment(CLASSES, 4, channels=6, temperature=0.2, query_weight=10.0)
    step = make_step(batches, {"queries": term})
    losses = term(step)
    for name in "ab":

        def pseudo(stream, name=name):
            f = term.heads.project(name, getattr(stream, name).features).detach().double().flatten(2).numpy()
            f = f / np.linalg.norm(f, axis=1, keepdims=True)
            q = term.queries[name].detach().double().numpy()
            logits = np.einsum("ce,nev->ncv", q / np.linalg.norm(q, axis=1, keepdims=True), f) / 0.2
            return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

        p = pseudo(step.on_unlabeled)
        q = softmax(getattr(step.on_unlabeled, name).logits).reshape(p.shape)
        assert losses[f"alignment_{name}"].item() == pytest.approx(-(p * np.log(q)).sum(1).mean(), rel=1e-4)
        labels = step.label.flatten(2).numpy()
        known = np.take_along_axis(pseudo(step.on_labeled), labels, 1)
        assert losses[f"queries_{name}"].item() == pytest.approx(10 * -np.log(known).mean(), rel=1e-4)


# --- pairs of voxels


def test_uncertain_pairs_are_the_weighted_hardest_triplets(batches):
    torch.manual_seed(3)
    term = UncertainPairs(per_class=1000, combine="mean")
    make = lambda: torch.randn(1, CLASSES, 3, 3, 3)  # noqa: E731
    student = Prediction(make(), torch.randn(1, 5, 3, 3, 3, requires_grad=True))
    teacher = Prediction(make())
    labels = torch.randint(0, CLASSES, (1, 1, 3, 3, 3))
    loss = term._loss(student, teacher, PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool)))
    f = student.features.detach().double().flatten(2)[0].T.numpy()
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    p, t = (softmax(one.logits).reshape(CLASSES, -1) for one in (student, teacher))
    sure = np.exp(-(t * np.log(t / p)).sum(0))
    y = labels.flatten().numpy()
    terms = []
    for i in range(27):
        distance = np.linalg.norm(f - f[i], axis=1)
        positive = max((j for j in range(27) if j != i and y[j] == y[i]), key=lambda j: distance[j])
        negative = min((j for j in range(27) if y[j] != y[i]), key=lambda j: distance[j])
        weight = (sure[i] + sure[positive]) / 2 * (sure[i] + sure[negative]) / 2
        terms.append(weight * np.log1p(np.exp(distance[positive] - distance[negative])))
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-4)
    loss.backward()
    assert student.features.grad.isfinite().all()


def test_pairs_of_a_single_class_teach_nothing_and_break_nothing():
    features = torch.randn(1, 5, 3, 3, 3, requires_grad=True)
    one = PseudoLabels(torch.zeros(1, 1, 3, 3, 3, dtype=torch.int64), torch.ones(1, 1, 3, 3, 3, dtype=torch.bool))
    loss = UncertainPairs()._loss(
        Prediction(torch.zeros(1, 2, 3, 3, 3), features), Prediction(torch.zeros(1, 2, 3, 3, 3)), one
    )
    loss.backward()
    assert loss.item() == 0 and features.grad.isfinite().all()


# --- averages over time


def test_agreement_over_time_weighs_the_cross_entropy(batches):
    network, fast = make_network(), make_network()
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.mul_(0.5)
    term = TemporalAgreement(fast, decay=0.9)
    teacher = lambda step: Pair(*(Prediction(*one) for one in fast(step.unlabeled["weak"])))  # noqa: E731
    step = make_step(batches, {"agreement": term}, network, labeler=fixed_labels, teacher=teacher)
    losses = term(step)
    for parameter, slow in zip(fast.parameters(), term.slow.module.parameters(), strict=True):
        assert torch.equal(parameter, slow)  # the first update takes all
    with torch.no_grad():
        next(fast.parameters()).add_(1.0)
    term(step)
    assert term.slow.n_averaged == 2
    assert not torch.equal(next(fast.parameters()), next(term.slow.module.parameters()))
    for name in "ab":
        student, old = getattr(step.on_unlabeled, name), getattr(step.teachers, name)
        p, t = softmax(student.logits), softmax(old.logits)
        mean = (p + 2 * t) / 3
        entropy = lambda q: -(q * np.log(q)).sum(1)  # noqa: E731
        weight = 1 - (entropy(mean) - (entropy(p) + 2 * entropy(t)) / 3) / math.log(3)
        counts = weight * (old.logits[:, 0] > 0).numpy()
        expected = (counts * -np.log(np.take_along_axis(p, t.argmax(1)[:, None], 1)[:, 0])).mean()
        assert getattr(losses, name).item() == pytest.approx(expected, rel=1e-4)


def test_two_averages_take_turns_and_the_surer_one_decides(batches):
    network = make_network()
    term = AlternateTeaching(network, period=3, decay=0.5)
    torch.manual_seed(0)
    turns = []
    for _ in range(12):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.01)
        before = [next(average.module.parameters()).clone() for average in term.averages]
        active = int(term.active)
        step = make_step(batches, {"alternate": term}, network)
        image = step.views[term].image
        moved = [
            not torch.equal(old, next(average.module.parameters()))
            for old, average in zip(before, term.averages, strict=True)
        ]
        assert moved == [active == 0, active == 1]
        active = int(term.active)
        assert [average.module.a.modes[-1] for average in term.averages] == [active == 0, active == 1]
        weak, strong = image.chunk(2)
        assert torch.equal(weak, batches[1]["weak"])
        boxes = step.views[term].target[1]
        assert (boxes is not None) == (active == 1)
        if boxes is not None:
            assert torch.equal(strong, from_partner(weak, boxes))
        turns.append(active)
    changes = np.flatnonzero(np.diff(turns)) + 1
    assert {0, 1} == set(turns) and max(np.diff([0, *changes])) <= 3

    sure, unsure = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.5, 0.0]])
    one, other = (Prediction(z.view(1, 3, 1, 1, 1)) for z in (sure, unsure))
    labels, confidence, conflict = term._together(one, other)
    p, q = softmax(one.logits).ravel(), softmax(other.logits).ravel()
    weights = [math.exp((x * np.log2(x)).sum()) for x in (p, q)]
    mean = (weights[0] * p + weights[1] * q) / sum(weights)
    assert labels.item() == 0 and conflict.item()
    assert confidence.item() == pytest.approx(mean.max(), rel=1e-5)


def test_in_a_conflict_the_network_itself_may_be_the_surer_one():
    term = AlternateTeaching(DualNetwork(Subnet(), Subnet()), threshold=0.8)
    own = Prediction(torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1, 1).repeat(2, 1, 1, 1, 1))

    def target(conflict):
        one = torch.ones(1, 1, 1, 1, 1)
        return one.long(), 0.85 * one, one.bool() & conflict

    assert term._learn(own, target(True), None)[1].labels.item() == 0
    assert term._learn(own, target(False), None)[1].labels.item() == 1


# --- mixed images


def test_discrepancy_waits_for_the_end_of_the_pretraining_and_names_its_source(batches):
    source = SimpleNamespace(pretraining=0.3)
    step = SimpleNamespace(unlabeled={}, progress=0.2, method=SimpleNamespace(listed={"mix": source}.items))
    term = Discrepancy("mix")
    assert not term.applies(step)
    step.progress = 0.3
    assert term.applies(step)
    with pytest.raises(ValueError, match="mixed must be one of the method's terms, mix; got copy_paste"):
        Discrepancy().applies(step)


# --- conflict free


@pytest.mark.parametrize("factor", [-1.0, 1.0])
def test_without_conflict_the_gradient_is_the_projected_one(factor):
    torch.manual_seed(0)
    network = nn.Linear(6, 1)
    x, y = torch.randn(4, 6), torch.randn(4, 1)

    def make():
        other = factor * 3 * network(x + 0.3).mean() - network(y.expand(4, 6)).mean()
        return {"label": (network(x) - y).square().mean(), "other": other}

    losses = make()
    ConflictFreeGradient(network.parameters()).backward(losses["label"], losses["other"])
    expected = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    plain = make()
    changed = ConflictFree(network.parameters())(plain, {"other"})
    assert {name: loss.item() for name, loss in changed.items()} == {name: loss.item() for name, loss in plain.items()}
    sum(changed.values()).backward()
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_method_tells_its_gradient_which_losses_are_unsupervised(batches):
    told = []

    def note(losses, unsupervised):
        told.append((set(losses), unsupervised))
        return losses

    method = Method({"supervised": Supervised(supervised_loss()), "views": RectifiedViews()}, gradient=note)
    method(make_network(), *batches, 1.0)
    assert told == [({"supervised_a", "supervised_b", "views_a", "views_b"}, {"views_a", "views_b"})]


# --- first phases


def test_a_first_phase_without_unlabelled_scans_says_what_to_do(batches):
    with pytest.raises(DataError, match="give the datalist a section unlabeled"):
        Method({"masked": MaskedReconstruction(4)})(make_network(), batches[0], None, 0.0)


def test_masked_cubes_are_all_that_counts(batches):
    torch.manual_seed(0)
    term = MaskedReconstruction(4, cube=4, ratio=0.5)
    step = make_step(batches, {"masked": term})
    losses = term(step)
    image, cut = step.views[term].target
    assert torch.equal(step.views[term].image, image * ~cut)
    cubes = cut.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).flatten(5).float().mean(-1)
    assert set(cubes.unique().tolist()) == {0.0, 1.0}
    guess = term.heads.project("b", step.on_view(term).b.features)
    expected = (guess - image).square()[cut].mean()
    torch.testing.assert_close(losses.b, expected)
    with pytest.raises(ValueError, match="ratio in"):
        MaskedReconstruction(4, ratio=1.0)
