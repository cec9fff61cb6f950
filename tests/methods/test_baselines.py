# SPDX-License-Identifier: Apache-2.0
"""The baselines compute what their papers say, here against float64 NumPy, and train what they should."""

import math

import numpy as np
import pytest
import torch

from scripts.annotation import IGNORED
from scripts.losses import BoxMix, CopyPasteLoss, MixedBatch, SigmoidRamp
from scripts.methods import Method, Step
from scripts.methods.terms import LabeledCopyPaste
from scripts.networks import DualNetwork, DualOutput, MovingAverage, SubnetOutput, VNet

from .make import CLASSES, make_method

SIZE = (16, 16, 16)


def make_network(dropout=0.0):
    torch.manual_seed(0)
    subnets = [VNet(out_channels=CLASSES, base_channels=4, norm="batch", dropout=dropout) for _ in range(2)]
    return DualNetwork(*subnets)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    labeled = {"image": torch.randn(2, 1, *SIZE), "label": torch.randint(0, CLASSES, (2, 1, *SIZE))}
    return labeled, {"image": torch.randn(2, 1, *SIZE)}


def softmax(logits, axis=1):
    shifted = np.exp(logits - logits.max(axis, keepdims=True))
    return shifted / shifted.sum(axis, keepdims=True)


class Fixed(torch.nn.Module):
    """A dual network whose logits do not depend on the image, one set for each batch position."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, images):
        count = len(images)
        return DualOutput(*(SubnetOutput(logits[-count:], torch.zeros(count, 1)) for logits in (self.a, self.b)))


def fixed(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return Fixed(*(scale * torch.randn(4, CLASSES, *SIZE, generator=generator) for _ in range(2)))


def has_gradient(loss, module):
    gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return any(g is not None and bool((g != 0).any()) for g in gradients)


# --- moving average


def test_the_moving_average_starts_as_a_mean_and_then_decays():
    network = torch.nn.BatchNorm1d(1)
    average = MovingAverage(network, decay=0.7)
    values = [1.0, 3.0, 5.0, 9.0, 2.0]
    expected = None
    for n, value in enumerate(values):
        with torch.no_grad():
            network.weight.fill_(value)
            network.running_mean.fill_(-value)
            network.num_batches_tracked.fill_(n)
        average.update_parameters(network)
        decay = min(1 - 1 / (n + 1), 0.7)
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
        assert average.module.running_mean.item() == pytest.approx(-expected, rel=1e-6)
        assert average.module.num_batches_tracked.item() == n
    assert not average.module.weight.requires_grad and network.weight.requires_grad


def test_a_restored_average_goes_on_as_the_original():
    network = torch.nn.Linear(2, 1)
    first, second = MovingAverage(network), MovingAverage(torch.nn.Linear(2, 1))
    first.update_parameters(network)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        network.weight.add_(1.0)
    for average in (first, second):
        average.update_parameters(network)
    assert torch.equal(first.module.weight, second.module.weight)


def test_the_count_of_a_moving_average_stays_on_the_host():
    average = MovingAverage(torch.nn.Linear(2, 1)).to("meta")
    assert average.module.weight.is_meta and average.n_averaged.device.type == "cpu"
    assert "n_averaged" in average.state_dict()


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=str(decay)):
        MovingAverage(torch.nn.Linear(1, 1), decay=decay)


# --- mean teacher, UA-MT


def test_mean_teacher_is_the_mean_square_to_the_teachers_softmax(batches):
    student, teacher = fixed(0), fixed(1)
    losses = make_method("mean_teacher", teacher)(student, *batches, progress=1.0)
    for name in "ab":
        difference = softmax(getattr(student, name).double().numpy()) - softmax(getattr(teacher, name).double().numpy())
        assert losses[f"consistency_{name}"].item() == pytest.approx(0.1 * (difference[2:] ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.6, 1.0])
def test_uamt_counts_only_voxels_of_low_entropy(batches, progress):
    student, teacher = fixed(0), fixed(1)
    method = make_method("uamt", teacher)
    losses = method(student, *batches, progress=progress)
    ramp = math.exp(-5 * (1 - progress) ** 2)
    kept = []
    for name in "ab":
        p = softmax(getattr(student, name).double().numpy())[2:]
        q = softmax(getattr(teacher, name).double().numpy())[2:]
        mask = -(q * np.log(q)).sum(1) < (0.75 + 0.25 * ramp) * math.log(CLASSES)
        kept.append(mask.mean())
        expected = 0.1 * ramp * (((p - q) ** 2).sum(1) * mask).sum() / (CLASSES * mask.sum())
        assert losses[f"consistency_{name}"].item() == pytest.approx(expected, rel=1e-4)
    assert method.statistics["kept_fraction"].item() == pytest.approx(np.mean(kept), rel=1e-6)
    assert 0 < np.mean(kept) <= 1


def test_uamt_averages_its_noisy_passes(batches):
    calls = []

    class Counting(Fixed):
        def forward(self, images):
            calls.append(images)
            return super().forward(images)

    teacher = Counting(*(torch.zeros(4, CLASSES, *SIZE) for _ in range(2)))
    make_method("uamt", teacher)(make_network(), *batches, progress=0.5)
    assert len(calls) == 9  # the target and 8 passes
    noise = torch.stack([images - batches[1]["image"] for images in calls])
    assert noise.abs().max().item() <= 0.2 + 1e-6
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert not torch.equal(noise[0], noise[1])


def test_a_mean_teacher_moves_the_students_and_not_the_teachers(batches):
    network = make_network()
    average = MovingAverage(network)
    losses = make_method("mean_teacher", average.module)(network, *batches, progress=1.0)
    assert has_gradient(losses["consistency_a"], network.a) and not has_gradient(losses["consistency_a"], network.b)
    assert has_gradient(losses["consistency_b"], network.b) and not has_gradient(losses["consistency_b"], network.a)
    assert all(parameter.grad is None for parameter in average.parameters())


# --- MCF


def test_in_mcf_the_loser_learns_the_winners_sharpened_softmax(batches):
    network = fixed(0)
    label = batches[0]["label"]
    # b is right about the labels: it wins, and only a is corrected
    network.b[:2] = 5.0 * torch.nn.functional.one_hot(label[:, 0], CLASSES).movedim(-1, 1)
    losses = make_method("mcf")(network, *batches, progress=1.0)
    target = softmax(network.b[2:].double().numpy() / 0.1)
    expected = 0.1 * ((softmax(network.a[2:].double().numpy()) - target) ** 2).mean()
    assert losses["correction_a"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["correction_b"].item() == 0


def test_mcf_swaps_with_the_networks_and_moves_the_loser_alone(batches):
    network = make_network()
    method = make_method("mcf")
    network.eval()
    losses = method(network, *batches, progress=0.5)
    swapped = method(DualNetwork(network.b, network.a).eval(), *batches, progress=0.5)
    for a, b in (("supervised_a", "supervised_b"), ("rectification_a", "rectification_b")):
        torch.testing.assert_close(losses[a], swapped[b])
    torch.testing.assert_close(losses["correction_a"], swapped["correction_b"])
    loser, winner = ("a", "b") if losses["correction_a"] > 0 else ("b", "a")
    assert has_gradient(losses[f"correction_{loser}"], getattr(network, loser))
    assert not has_gradient(losses[f"correction_{loser}"], getattr(network, winner))


# --- copy-paste


@pytest.mark.parametrize("size", [(12, 9, 6), (12, 9)])
def test_copy_paste_exchanges_one_box_and_takes_labels_along(size):
    torch.manual_seed(0)
    image, other = torch.zeros(3, 2, *size), torch.ones(2, 2, *size)
    label, pseudo = torch.full((3, 1, *size), 4), torch.full((2, 1, *size), 7)
    mixed = BoxMix(ratio=2 / 3)(image, label, other, pseudo, torch.ones_like(pseudo, dtype=torch.bool))
    assert mixed.image.shape == (2, 2, *size)
    assert torch.equal(mixed.image[:, :1] == 0, mixed.is_labeled)
    assert torch.equal(mixed.image[:, :1], mixed.image[:, 1:])
    assert torch.equal(mixed.label, torch.where(mixed.is_labeled, 4, 7))
    assert bool(mixed.counts.all())
    boxes = (~mixed.is_labeled[0, 0], mixed.is_labeled[1, 0])  # unlabelled into labelled, then the other way round
    for box in boxes:
        lengths = [int(length * 2 / 3) for length in size]
        assert int(box.sum()) == math.prod(lengths)
        for axis, length in enumerate(lengths):
            others = [a for a in range(box.ndim) if a != axis]
            line = box.any(others[0]) if len(others) == 1 else box.amax(others)
            assert int(line.sum()) == length


def test_boxes_lie_anywhere():
    starts = set()
    for seed in range(200):
        torch.manual_seed(seed)
        box = BoxMix(ratio=0.5)._random_box(torch.Size([4, 4]), torch.device("cpu"))
        starts.add(tuple(box[0].nonzero()[0].tolist()))
    assert starts == {(x, y) for x in range(3) for y in range(3)}


def test_only_pseudo_labels_can_be_unreliable():
    size = (6, 6, 6)
    zeros = torch.zeros(2, 1, *size)
    mixed = BoxMix()(zeros, zeros, zeros + 1, zeros, reliable=torch.zeros(2, 1, *size, dtype=torch.bool))
    assert torch.equal(mixed.counts, mixed.is_labeled)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_copy_paste_loss_against_numpy(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(2, classes, 5, 6, 7, generator=generator)
    label = torch.randint(0, classes, (2, 1, 5, 6, 7), generator=generator)
    is_labeled = torch.rand(2, 1, 5, 6, 7, generator=generator) < 0.4
    counts = is_labeled | (torch.rand(2, 1, 5, 6, 7, generator=generator) < 0.7)
    loss = CopyPasteLoss(pseudo_weight=0.5)(logits, MixedBatch(logits, label, is_labeled, counts))

    p = softmax(logits.double().numpy())
    target = np.eye(classes)[label[:, 0].numpy()].transpose(0, 4, 1, 2, 3)

    def part(mask):
        mask = mask.numpy()
        entropy = -(np.log(p) * target * mask).sum() / mask.sum()
        axes = (0, 2, 3, 4)
        overlap = (p * target * mask).sum(axes)
        size = (p**2 * mask).sum(axes) + (target * mask).sum(axes)
        return (entropy + (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()) / 2

    expected = part(is_labeled) + 0.5 * part(~is_labeled & counts)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_mixed_batch_without_reliable_pseudo_labels_still_trains():
    logits = torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    label = torch.zeros(2, 1, 4, 4, 4, dtype=torch.long)
    nothing = torch.zeros_like(label, dtype=torch.bool)
    loss = CopyPasteLoss()(logits, MixedBatch(logits, label, nothing, nothing))
    loss.backward()
    assert math.isfinite(loss.item()) and bool(torch.isfinite(logits.grad).all())


def test_bcp_mixes_labelled_pairs_first_and_then_pseudo_labels_of_the_largest_component(batches):
    labeled, unlabeled = batches
    # the teachers see two blobs of class 1: the smaller one is not to be learnt
    logits = torch.zeros(2, CLASSES, *SIZE)
    logits[:, 0] = 1.0
    logits[:, 1, 2:8, 2:8, 2:8] = 5.0
    logits[:, 1, 12:14, 12:14, 12:14] = 5.0
    method = make_method("bcp", Fixed(logits, logits))
    seen = []

    def spy(image, label, other, pseudo_label, *options):
        seen.append((other, pseudo_label))
        return BoxMix()(image, label, other, pseudo_label, *options)

    method.terms["copy_paste"].mix = spy
    network = make_network()
    method(network, labeled, unlabeled, progress=0.0)
    assert torch.equal(seen[0][0], labeled["image"].flip(0)) and torch.equal(seen[0][1], labeled["label"].flip(0))
    seen.clear()
    losses = method(network, labeled, unlabeled, progress=0.5)
    assert torch.equal(seen[0][0], unlabeled["image"])
    assert int((seen[0][1] == 1).sum()) == 2 * 6**3
    assert set(losses) == {"copy_paste_a", "copy_paste_b"}
    assert has_gradient(losses["copy_paste_a"], network.a) and not has_gradient(losses["copy_paste_a"], network.b)


def test_both_networks_of_bcp_see_the_same_images_with_their_own_pseudo_labels(batches):
    teacher = fixed(3)
    mixes = []

    class Spy(CopyPasteLoss):
        def forward(self, logits, mixed, weight=None):
            mixes.append(mixed)
            return super().forward(logits, mixed, weight)

    method = make_method("bcp", teacher, labeler__largest_component=False)
    method.terms["copy_paste"].loss = Spy()
    method(make_network(), *batches, progress=0.5)
    a, b = mixes
    assert torch.equal(a.image, b.image) and torch.equal(a.is_labeled, b.is_labeled)
    for mixed, logits in ((a, teacher.a), (b, teacher.b)):
        own = torch.where(mixed.is_labeled, batches[0]["label"], logits[2:].argmax(1, keepdim=True))
        assert torch.equal(mixed.label, own)
    assert not torch.equal(a.label, b.label)


def test_bcp_has_no_pseudo_labels_to_show_while_it_pretrains(batches):
    method = make_method("bcp", fixed(3))
    method(make_network(), *batches, progress=0.0)
    assert "kept_fraction" not in method.statistics
    method(make_network(), *batches, progress=0.5)
    assert method.statistics["kept_fraction"].item() == 1


# --- copy-paste, pseudo-labelled by both averages together


def mix(method, labeled, unlabeled):
    """The mixed batch of network a, and of b, and the step it is of."""
    step = Step(method, None, labeled, unlabeled, progress=0.5)
    return *step.views[method.terms["copy_paste"]].target[0], step


@pytest.mark.parametrize("name", ["mean_teacher_copy_paste", "dual_network_copy_paste"])
def test_pseudo_labels_are_those_of_both_teachers_together(batches, name):
    teacher = fixed(5, scale=3.0)
    where = "labeler" if name == "mean_teacher_copy_paste" else "terms__copy_paste__labeler"
    method = make_method(name, teacher, **{f"{where}__confidence": 0.8})
    mixed, _, step = mix(method, *batches)
    probabilities = (softmax(teacher.a[2:].double().numpy()) + softmax(teacher.b[2:].double().numpy())) / 2
    pseudo = torch.from_numpy(probabilities.argmax(1))[:, None]
    assert torch.equal(mixed.label[~mixed.is_labeled], pseudo[~mixed.is_labeled])
    sure = torch.from_numpy(probabilities.max(1))[:, None] >= 0.8
    assert torch.equal(mixed.counts, mixed.is_labeled | sure)
    assert 0 < step.observed.a.mask.float().mean().item() < 1


def test_the_teacher_sees_the_weak_view_and_the_students_the_strong_one(batches):
    class BySign(torch.nn.Module):
        """Takes what is positive for class 1, the rest for class 0."""

        def forward(self, images):
            logits = torch.cat([-images, images, torch.full_like(images, -99.0)], 1)
            return DualOutput(*(SubnetOutput(logits, torch.zeros(len(images), 1)) for _ in range(2)))

    labeled, unlabeled = batches
    weak = torch.randn_like(unlabeled["image"])
    method = make_method("mean_teacher_copy_paste", BySign())
    for views, seen in ((unlabeled, unlabeled["image"]), (unlabeled | {"weak": weak}, weak)):
        mixed, *_ = mix(method, labeled, views)
        pseudo = ~mixed.is_labeled
        assert torch.equal(mixed.label[pseudo], (seen > 0).long()[pseudo])
        assert torch.equal(mixed.image[pseudo], unlabeled["image"][pseudo])


def test_copy_paste_is_ramped_up_and_trains_both_networks(batches):
    network = make_network()
    average = MovingAverage(network)
    method = make_method("mean_teacher_copy_paste", average.module, ramp__length=0.5, terms__rectification=None)
    method.train()
    losses = method(network, *batches, progress=0.6)
    assert set(losses) == {"supervised_a", "supervised_b", "copy_paste_a", "copy_paste_b"}
    assert has_gradient(losses["copy_paste_a"], network.a) and not has_gradient(losses["copy_paste_a"], network.b)
    assert not average.module.training
    torch.manual_seed(0)
    late = method(network, *batches, progress=0.6)["copy_paste_a"]
    torch.manual_seed(0)
    early = method(network, *batches, progress=0.0)["copy_paste_a"]
    assert early.item() == pytest.approx(math.exp(-5) * late.item(), rel=1e-4)


def test_labels_that_are_mixed_before_the_pseudo_labels_count_in_full(batches):
    """The ramp is for what may be wrong."""
    method, network = make_method("bcp", fixed(3)), make_network()
    method.ramp = SigmoidRamp(0.5)
    torch.manual_seed(0)
    ramped = method(network, *batches, progress=0.0)
    method.ramp = None
    torch.manual_seed(0)
    plain = method(network, *batches, progress=0.0)
    torch.testing.assert_close(ramped, plain)


# --- copy-paste between labelled images


def labeled_copy_paste():
    return Method({"mixed": LabeledCopyPaste()})


def test_labelled_images_are_mixed_in_pairs_with_both_labels_in_full(batches):
    labeled, _ = batches
    method, network = labeled_copy_paste(), make_network()
    step = Step(method, network, labeled, None, progress=0.0)
    mixed = step.views[method.terms["mixed"]].target
    label, partner = labeled["label"].long(), labeled["label"].long().roll(1, 0)
    assert torch.equal(mixed.label, torch.where(mixed.is_labeled, label, partner))
    assert torch.equal(mixed.image, torch.where(mixed.is_labeled, labeled["image"], labeled["image"].roll(1, 0)))
    assert mixed.counts.all() and 0 < mixed.is_labeled.float().mean() < 1
    logits = step.on_view(method.terms["mixed"]).a.logits.detach()
    expected = CopyPasteLoss(pseudo_weight=1.0)(logits, mixed)
    assert method.terms["mixed"](step).a.item() == pytest.approx(expected.item(), rel=1e-5)


def test_labelled_images_are_mixed_until_unlabelled_ones_count(batches):
    labeled, unlabeled = batches
    method, network = make_method("mean_teacher_copy_paste", fixed(5), warm_up=0.4), make_network()
    start, then = (set(method(network, labeled, unlabeled, progress=at)) for at in (0.0, 0.5))
    assert {"labeled_copy_paste_a", "labeled_copy_paste_b"} <= start and not any(n.startswith("copy") for n in start)
    assert {"copy_paste_a", "copy_paste_b"} <= then and not any(n.startswith("labeled") for n in then)
    assert set(method(network, labeled, None, progress=0.5)) == start


def test_mixing_labelled_images_trains_each_network_by_its_own_loss(batches):
    network = make_network()
    losses = labeled_copy_paste()(network, batches[0], None, progress=0.0)
    assert has_gradient(losses["mixed_a"], network.a) and not has_gradient(losses["mixed_a"], network.b)
    assert has_gradient(losses["mixed_b"], network.b) and not has_gradient(losses["mixed_b"], network.a)


def test_a_voxel_that_nobody_labelled_counts_in_neither_place_it_is_pasted_to(batches):
    labeled = {key: value.clone() for key, value in batches[0].items()}
    labeled["label"][:, :, :4] = IGNORED
    labeled["classes"] = torch.ones(len(labeled["label"]), CLASSES, dtype=torch.bool)
    method = labeled_copy_paste()
    mixed = Step(method, make_network(), labeled, None, progress=0.0).views[method.terms["mixed"]].target
    assert not mixed.counts[:, :, :4].any() and mixed.counts[:, :, 4:].all()


def test_an_impossible_box_is_refused():
    with pytest.raises(ValueError, match="1.5"):
        BoxMix(ratio=1.5)
