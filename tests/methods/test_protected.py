# SPDX-License-Identifier: Apache-2.0
"""What protects networks from wrong pseudo-labels: alone, together, over a restart, and what it refuses."""

import copy
import inspect
import json
import re
from pydoc import locate

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from scripts.losses import SigmoidRamp
from scripts.methods import (
    AdaptiveConfidence,
    Aligned,
    AverageTeacher,
    DifficultyWeights,
    EntropyFilter,
    MeanOfTeachers,
    Method,
    OfEachTeacher,
    Pair,
    Prediction,
    PseudoLabels,
    SoftWeights,
    Step,
    WithoutIslands,
)
from scripts.methods.terms import (
    Contrastive,
    CopyPaste,
    CutMixTeaching,
    Discrepancy,
    EntropyFiltered,
    FeaturePerturbed,
    MeanSquareConsistency,
    Supervised,
    UncertainPairs,
    WeakToStrong,
)
from scripts.networks import DualNetwork, MovingAverage

from .make import CLASSES, CONFIGS, make_method, supervised_loss

SIZE = (6, 6, 6)


class Subnet(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottleneck_dropout = nn.Conv3d(1, 4, 1)
        self.classifier = nn.Conv3d(4, CLASSES, 1)
        nn.init.normal_(self.classifier.weight, std=3.0)

    def forward_features(self, x):
        features = self.bottleneck_dropout(x)
        return self.classifier(features), features


def make_network(seed=0):
    torch.manual_seed(seed)
    return DualNetwork(Subnet(), Subnet())


def make_batches(seed=1):
    torch.manual_seed(seed)
    labeled = {"image": torch.randn(2, 1, *SIZE), "label": torch.randint(0, CLASSES, (2, 1, *SIZE))}
    return labeled, {"image": torch.randn(3, 1, *SIZE), "weak": torch.randn(3, 1, *SIZE)}


@pytest.fixture
def batches():
    return make_batches()


def make_step(batches, terms=None, progress=1.0, network=None, **parts):
    method = Method({"supervised": Supervised(supervised_loss()), **(terms or {})}, **parts)
    return Step(method, network or make_network(), *batches, progress)


@pytest.fixture
def teachers():
    torch.manual_seed(2)
    return Pair(*(Prediction(2 * torch.randn(3, CLASSES, *SIZE)) for _ in range(2)))


def softmax(prediction):
    return prediction.logits.detach().double().softmax(1).numpy()


def weighted(step, teachers):
    """Two classes' worth of labels, half of them counted, with weights of their own."""
    labels = torch.ones(3, 1, *SIZE, dtype=torch.int64)
    mask, weight = torch.zeros_like(labels, dtype=torch.bool), torch.full(labels.shape, 0.25)
    mask[..., :3], weight[..., 0] = True, 2.0
    return Pair(PseudoLabels(labels, mask, weight), PseudoLabels(labels, mask, weight))


weighted.gives_weights = True


# --- labelers around another


@pytest.mark.parametrize("form", ["freematch", "flexmatch"])
def test_each_class_of_each_teacher_has_a_threshold_that_adapts(batches, teachers, form):
    labeler = AdaptiveConfidence(CLASSES, momentum=0.1, form=form, threshold=0.6)
    step = make_step(batches)
    state = {name: (1 / CLASSES, np.full(CLASSES, 1 / CLASSES if form == "freematch" else 0.0)) for name in "ab"}
    for _ in range(2):
        got = labeler(step, teachers)
        for name, teacher, own in zip("ab", teachers, got, strict=True):
            p = softmax(teacher)
            confidence, winner = p.max(1), p.argmax(1)
            mean, shares = state[name]
            if form == "freematch":
                mean, shares = 0.1 * mean + 0.9 * confidence.mean(), 0.1 * shares + 0.9 * p.mean((0, 2, 3, 4))
                thresholds = shares / shares.max() * mean
            else:
                now = np.array([((winner == c) & (confidence >= 0.6)).mean() for c in range(CLASSES)])
                shares = 0.1 * shares + 0.9 * now
                beta = shares / max(shares.max(), 1 - shares.sum())
                thresholds = beta / (2 - beta) * 0.6
            state[name] = mean, shares
            assert np.array_equal(own.labels.numpy()[:, 0], winner)
            assert np.array_equal(own.mask.numpy()[:, 0], confidence >= thresholds[winner])
    for own in got:
        assert 0 < own.mask.float().mean() < 1 and own.weight is None


def test_around_another_labeler_both_must_agree(batches, teachers):
    inner, step = EntropyFilter(0.3), make_step(batches)
    labels = inner(step, teachers).a
    both = AdaptiveConfidence(CLASSES, momentum=0.0, labeler=inner)(step, teachers)
    alone = AdaptiveConfidence(CLASSES, momentum=0.0)(step, teachers)
    for own, sure in zip(both, alone, strict=True):
        assert torch.equal(own.labels, labels.labels)
        assert torch.equal(own.mask, labels.mask & sure.mask & (sure.labels == labels.labels))
        assert 0 < own.mask.sum() < labels.mask.sum()


def test_soft_weights_fall_off_below_the_mean_confidence_of_the_own_teacher(batches, teachers):
    got = SoftWeights(CLASSES, momentum=0.0, labeler=MeanOfTeachers())(make_step(batches), teachers)
    for teacher, own in zip(teachers, got, strict=True):
        p = softmax(teacher)
        confidence = p.max(1)
        below = np.minimum(confidence - confidence.mean(), 0)
        expected = np.exp(-((2 * below) ** 2) / (2 * confidence.var(ddof=1)))
        np.testing.assert_allclose(own.weight.numpy()[:, 0], expected, rtol=1e-4, atol=1e-6)
        assert np.array_equal(own.mask.numpy(), p.argmax(1)[:, None] == own.labels.numpy())


def test_classes_that_a_network_loses_weigh_more(batches):
    """Network a is right about class 1 alone, b about class 2 alone; in the second step each forgets it."""
    labeler = DifficultyWeights(CLASSES, momentum=0.5)
    step = make_step(batches, {"filtered": EntropyFiltered()}, labeler=labeler)
    known = nn.functional.one_hot(step.label[:, 0], CLASSES).movedim(-1, 1).float()
    right = {
        c: 9.0 * torch.stack([known[:, 0] * 0 + 0.5, *(known[:, k] * (k == c) for k in (1, 2))], 1) for c in (1, 2)
    }
    nothing = torch.zeros_like(known)
    nothing[:, 0] = 9.0
    for a, b in ((right[1], right[2]), (nothing, nothing)):
        vars(step)["_outputs"] = {"labeled": Pair(Prediction(a), Prediction(b))}
        labeler.follow(step)
    labels = torch.arange(CLASSES).view(CLASSES, 1, 1, 1, 1).expand(CLASSES, 1, *SIZE)
    own = PseudoLabels(labels, torch.ones_like(labels, dtype=torch.bool))
    of_a, of_b = (labeler.protect(name, None, own).weight.flatten(1)[:, 0] for name in "ab")
    assert of_a.argmax() == 1 and of_b.argmax() == 2
    torch.testing.assert_close(torch.stack([of_a.mean(), of_b.mean()]), torch.ones(2))


def test_difficulty_follows_every_training_step_the_supervised_ones_too(batches):
    labeler = DifficultyWeights(CLASSES)
    method = Method({"pasted": CopyPaste()}, labeler, AverageTeacher(make_network(5)))
    network = make_network()
    method.eval()(network, *batches, progress=0.5)
    assert not labeler.of_networks["a"].seen.any()  # evaluation teaches nothing
    losses = method.train()(network, *batches, progress=0.5)  # no term reads the labelled images: the labeler does
    assert losses.keys() == {"pasted_a", "pasted_b"}
    for name in "ab":
        predicted = getattr(network(batches[0]["image"]), name).logits.argmax(1).numpy()
        known = batches[0]["label"][:, 0].numpy()
        dice = [
            2 * ((predicted == c) & (known == c)).sum() / ((predicted == c).sum() + (known == c).sum())
            for c in range(3)
        ]
        np.testing.assert_allclose(labeler.of_networks[name].last.numpy(), np.clip(dice, 1e-3, 1), rtol=1e-5)
    late = Method(
        {"supervised": Supervised(supervised_loss()), "pasted": CopyPaste()}, DifficultyWeights(CLASSES), warm_up=0.5
    )
    late.train()(network, batches[0], None, progress=0.1)
    assert late.labeler.of_networks["b"].seen.all()


@pytest.mark.parametrize("ignore", [True, False])
def test_pseudo_labels_of_any_labeler_lose_their_islands(batches, teachers, ignore):
    inner, step = EntropyFilter(0.3), make_step(batches)
    before = inner(step, teachers).a
    after = WithoutIslands([1], ignore, labeler=inner)(step, teachers)
    assert after.a is after.b
    islands = np.zeros(before.labels.shape, dtype=bool)
    for item in range(3):
        of_class = before.labels[item, 0].numpy() == 1
        pieces, count = ndimage.label(of_class)
        largest = 1 + np.argmax([(pieces == k).sum() for k in range(1, count + 1)])
        islands[item, 0] = of_class & (pieces != largest)
    islands = torch.from_numpy(islands)
    assert islands.any()
    assert torch.equal(after.a.labels, before.labels if ignore else before.labels.masked_fill(islands, 0))
    assert torch.equal(after.a.mask, before.mask & ~islands if ignore else before.mask)
    assert WithoutIslands([], labeler=inner)(step, teachers).a.mask.equal(before.mask)


def test_alignment_gives_the_teachers_classes_the_shares_of_the_labels(batches, teachers):
    class Seen:
        def __call__(self, step, teachers):
            self.teachers = teachers
            return OfEachTeacher()(step, teachers)

    batches[0]["label"][:] = 0
    batches[0]["label"][..., :2] = 2
    for shares in (None, [0.2, 0.7, 0.1]):
        seen = Seen()
        Aligned(CLASSES, shares, labeler=seen)(make_step(batches), teachers)
        target = np.array([2 / 3, 1e-6, 1 / 3] if shares is None else shares)
        for before, after in zip(teachers, seen.teachers, strict=True):
            p = softmax(before)
            expected = p * (target / p.mean((0, 2, 3, 4)))[None, :, None, None, None]
            np.testing.assert_allclose(softmax(after), expected / expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-6)
            assert not after.logits.requires_grad and bool(after.entropy.isfinite().all())
    with pytest.raises(ValueError, match="3 numbers above 0 with a sum of 1"):
        Aligned(CLASSES, [0.5, 0.5, 0.5])


# --- weights in the terms


def test_terms_that_cannot_weigh_refuse_a_labeler_that_gives_weights(batches):
    nested = WithoutIslands(labeler=Aligned(CLASSES, labeler=SoftWeights(CLASSES)))
    for term in (UncertainPairs(), MeanSquareConsistency()):
        with pytest.raises(ValueError, match=r"WithoutIslands .* weights, and the term odd cannot weigh them"):
            Method({"odd": term}, nested)
        Method({"odd": term}, WithoutIslands())
    terms = {"copy_paste": CopyPaste(), "discrepancy": Discrepancy()}
    method = Method(terms, labeler=nested, teacher=AverageTeacher(make_network(5)))
    with pytest.raises(ValueError, match="Discrepancy cannot"):
        method(make_network(), *batches, progress=1.0)


def test_a_voxel_counts_by_its_weight_in_every_term_that_can_weigh(batches):
    """Twice the weights everywhere: what is divided by voxels doubles, what is divided by the weights stays."""

    def losses(factor):
        torch.manual_seed(7)
        network = make_network()

        def labeler(step, teachers):
            return Pair(*(own._replace(weight=factor and own.weight * factor) for own in weighted(step, teachers)))

        terms = {
            "filtered": EntropyFiltered(),
            "strong": WeakToStrong(cutmix=0.5),
            "dropped": FeaturePerturbed(network),
            "pasted": CopyPaste(),
            "cut_mix": CutMixTeaching(),
        }
        method = Method(terms, labeler=labeler, teacher=AverageTeacher(make_network(5)))
        return method(network, *batches, progress=1.0)

    none, one, two = losses(None), losses(1.0), losses(2.0)
    for name in ("filtered", "strong_a", "dropped_b"):
        assert one[name] != none[name] and one[name] > 0
        torch.testing.assert_close(two[name], 2 * one[name])
    for name in ("pasted_a", "pasted_b", "cut_mix_a", "cut_mix_b"):
        assert one[name] != none[name]
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=0)


def test_weighted_cross_entropy_is_divided_by_the_voxels_that_count(batches):
    step = make_step(batches, {"filtered": EntropyFiltered()}, labeler=weighted)
    value = step.terms["filtered"](step)
    own = weighted(None, None).a
    mask, weight = own.mask.numpy(), own.weight.numpy()
    expected = sum(-(np.log(softmax(one)[:, 1:2]) * weight * mask).sum() / mask.sum() for one in step.on_unlabeled)
    assert value.item() == pytest.approx(expected, rel=1e-5)


# --- CutMix between unlabelled crops


@pytest.mark.parametrize("kl_weight", [False, True])
@pytest.mark.parametrize("views", [1, 2])
def test_boxes_exchanged_between_unlabelled_crops_are_learnt_with_their_labels(batches, views, kl_weight):
    class Marked:
        """The strong view of image i shows i + 10 everywhere."""

        def __call__(self, image):
            return torch.arange(10.0, 10.0 + len(image)).view(-1, 1, 1, 1, 1).expand_as(image).contiguous()

    term = CutMixTeaching(views=views, kl_weight=kl_weight, vary=Marked())
    step = make_step(batches, {"cut_mix": term}, labeler=OfEachTeacher(), teacher=AverageTeacher(make_network(5)))
    losses = term(step)
    image = step.views[term].image
    assert image.shape == (3 * views, 1, *SIZE)
    source = image.numpy()[:, 0].round().astype(int) - 10
    item = np.arange(3 * views)[:, None, None, None] % 3
    assert set(np.unique((source - item) % 3)) == {0, 2}  # itself, or the one before it
    grid = np.indices(SIZE)
    for name in "ab":
        teacher = softmax(getattr(step.teachers, name)).transpose(0, 2, 3, 4, 1)[(source, *grid)]
        p = softmax(getattr(step.on_view(term), name)).transpose(0, 2, 3, 4, 1)
        target = np.eye(CLASSES)[teacher.argmax(-1)]
        weight = np.exp(-(teacher * np.log(teacher / p)).sum(-1)) if kl_weight else np.ones(p.shape[:-1])
        cross_entropy = -(np.log((p * target).sum(-1)) * weight).sum() / max(weight.sum(), 1)
        q, t = p * weight[..., None], target * weight[..., None]
        axes = (0, 1, 2, 3)
        dice = (1 - (2 * (q * t).sum(axes) + 1e-5) / ((q**2).sum(axes) + (t**2).sum(axes) + 1e-5)).mean()
        assert getattr(losses, name).item() == pytest.approx((cross_entropy + dice) / 2, rel=1e-4)
    with pytest.raises(ValueError, match="views must be at least 1"):
        CutMixTeaching(views=0)


def test_cut_mix_moves_the_student_alone_and_one_crop_is_no_error(batches):
    average, network = make_network(5), make_network()
    labeled, unlabeled = batches
    for images in (unlabeled, {name: image[:1] for name, image in unlabeled.items()}):
        terms = {"cut_mix": CutMixTeaching(kl_weight=True)}
        step = make_step(
            (labeled, images), terms, network=network, labeler=OfEachTeacher(), teacher=AverageTeacher(average)
        )
        a = step.terms["cut_mix"](step).a
        gradients = torch.autograd.grad(a, list(network.parameters()), allow_unused=True, retain_graph=True)
        moved = [g is not None and bool((g != 0).any()) for g in gradients]
        half = len(moved) // 2
        assert any(moved[:half]) and not any(moved[half:])
        assert all(p.grad is None for p in average.parameters())


# --- prototypes from teachers and from labels


@pytest.mark.parametrize("sources", [["teacher"], ["labels"], ["student", "teacher", "labels"]])
def test_prototypes_are_class_means_of_all_that_is_named(batches, sources):
    term = Contrastive(CLASSES, prototypes_from=sources)
    average = make_network(9)
    teacher = AverageTeacher(average, teaches="other")
    labeler = SoftWeights(CLASSES, momentum=0.0, labeler=EntropyFilter(0.3))
    step = make_step(batches, {"contrastive": term}, labeler=labeler, teacher=teacher)
    losses = term(step)
    said = average(batches[1]["weak"])
    for name in "ab":
        own = getattr(step.pseudo_labels, name)
        pseudo = own.labels.numpy(), own.mask.numpy() * own.weight.numpy()
        label = batches[0]["label"].numpy()
        parts = {
            "student": (getattr(step.on_unlabeled, name).features, *pseudo),
            "teacher": (getattr(said, name).features, *pseudo),  # of the network itself, whomever it teaches
            "labels": (getattr(step.on_labeled, name).features, label, np.ones(label.shape)),
        }
        for c in range(CLASSES):
            total, count = 0.0, 0.0
            for features, labels, weight in (parts[source] for source in sources):
                weight = weight * (labels == c)
                total = total + (features.detach().double().numpy() * weight).sum((0, 2, 3, 4))
                count += weight.sum()
            bank = term.losses[name].bank
            assert bank.seen[c] == (count > 0)
            np.testing.assert_allclose(bank.prototypes[c].numpy(), total / max(count, 1e-9), rtol=1e-4, atol=1e-5)
        assert bank.seen.sum() >= 2
    assert losses.a.requires_grad and losses.a > 0


def test_prototypes_from_teachers_need_an_average_and_names_that_exist(batches):
    step = make_step(
        batches, {"contrastive": Contrastive(CLASSES, prototypes_from=["teacher"])}, labeler=EntropyFilter()
    )
    with pytest.raises(ValueError, match="moving average of network a"):
        step.terms["contrastive"](step)
    with pytest.raises(ValueError, match="prototypes_from must name some of"):
        Contrastive(CLASSES, prototypes_from=["students"])


# --- what the docs say


def test_every_line_of_json_in_the_docs_names_a_part_and_its_options():
    page = (CONFIGS.parent / "docs" / "methods.md").read_text()
    section = page[page.index("## Protected teaching") : page.index("## A first phase")]
    found = re.findall(r'<code>"\w+":\s({"_target_": .+?})</code>', section)
    assert len(found) == 11
    for text in found:
        options = json.loads(text.replace(": ...", ": null"))
        part = locate(options.pop("_target_"))
        assert part.__name__ in text and options.keys() <= inspect.signature(part).parameters.keys()


# --- all of it: configs/methods/protected.json


class Trained:
    """What the trainer keeps of a run: networks, their average, the method, the optimizer."""

    def __init__(self):
        self.network = make_network()
        self.average = MovingAverage(self.network, decay=0.5)
        # a momentum at which thresholds are felt at once, and labels that a Dice can be told of
        self.method = make_method("protected", self.average.module, ramp=SigmoidRamp(0.1), labeler__classes=[1, 2])
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-2)

    @property
    def parts(self):
        return {"network": self.network, "average": self.average, "method": self.method, "optimizer": self.optimizer}

    def step(self, number):
        batches = make_batches(number)
        self.network.train()
        self.method.train()
        losses = self.method(self.network, *batches, 0.9)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return {name: loss.item() for name, loss in losses.items()}


def test_the_protected_method_trains_each_network_by_every_term():
    run = Trained()
    run.step(1)
    losses = run.method(run.network, *make_batches(2), 0.9)
    terms = ("supervised", "rectification", "copy_paste", "cut_mix", "contrastive")
    assert losses.keys() == {f"{term}_{name}" for term in terms for name in "ab"}
    for name, loss in losses.items():
        own, other = (run.network.a, run.network.b) if name.endswith("_a") else (run.network.b, run.network.a)
        for subnet, moves in ((own, True), (other, False)):
            found = torch.autograd.grad(loss, list(subnet.parameters()), retain_graph=True, allow_unused=True)
            assert any(g is not None and bool((g != 0).any()) for g in found) == moves, name
    assert not any(p.requires_grad for p in run.method.parameters())
    assert 0 < run.method.statistics["kept_fraction"] < 1


def test_the_protected_method_goes_on_exactly_where_it_was_stopped():
    whole = Trained()
    for number in range(3):
        whole.step(number)
    saved = {name: copy.deepcopy(part.state_dict()) for name, part in whole.parts.items()}
    expected = [whole.step(number) for number in (3, 4)]
    resumed = Trained()
    fresh = resumed.method.state_dict()
    changed = {name for name, value in saved["method"].items() if name in fresh and not torch.equal(value, fresh[name])}
    assert {"learned", "confidence", "shares"} <= {part for name in changed for part in name.split(".")}
    for name, part in resumed.parts.items():
        part.load_state_dict(saved[name])
    assert [resumed.step(number) for number in (3, 4)] == expected
