# SPDX-License-Identifier: Apache-2.0
"""Thresholds, weights and alignment of pseudo-labels, and learning from disagreement, beside their formulas."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from scripts import losses
from scripts.losses import (
    AdaptiveConfidencePseudoLabeler,
    ClassMemoryBank,
    ConfidencePseudoLabeler,
    DifficultyWeight,
    DisagreementLearningLoss,
    DistributionAlignment,
    LargestComponent,
    PrototypeBank,
    RunningMean,
    SoftMatchWeight,
    predict,
)

from .loss_references import softmax, voxels

SHAPES = [(2, c, *s) for c in (2, 3, 14) for s in ((7, 6), (4, 5, 3))]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)


def logits(shape, seed=0, scale=2.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def class_maps(shape, seed=0):
    return torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=torch.Generator().manual_seed(seed))


@EVERY_SHAPE
def test_a_fixed_threshold_keeps_the_sure_voxels(shape):
    p = voxels(softmax(logits(shape).numpy()))
    labels, mask = ConfidencePseudoLabeler(threshold=0.6)(logits(shape))
    np.testing.assert_array_equal(voxels(labels.numpy())[:, 0], p.argmax(1))
    np.testing.assert_array_equal(voxels(mask.numpy())[:, 0], p.max(1) >= 0.6)


def test_a_rising_threshold_is_linear_in_the_progress_and_then_stays():
    p = torch.linspace(0.5, 1.0, 101, dtype=torch.float64)
    p = torch.stack([p, 1 - p])[None, :, None]
    labeler = ConfidencePseudoLabeler(threshold=0.752, rise_to=0.952)
    kept = [labeler.from_probabilities(p, t)[1].sum().item() for t in (0.0, 0.5, 1.0, 3.0)]
    assert kept == [50, 30, 10, 10]


@EVERY_SHAPE
@pytest.mark.parametrize("form", ["freematch", "flexmatch"])
def test_adaptive_thresholds_are_those_of_the_formulas(shape, form):
    classes, momentum, tau = shape[1], 0.7, 0.5
    labeler = AdaptiveConfidencePseudoLabeler(classes, momentum, form, threshold=tau)
    shares = np.full(classes, 1 / classes if form == "freematch" else 0.0)
    confidence = 1 / classes
    for step in range(3):
        p = voxels(softmax(logits(shape, step).numpy()))
        winner, top = p.argmax(1), p.max(1)
        if form == "freematch":
            now = p.mean(0)
        else:
            now = np.array([((winner == c) & (top >= tau)).mean() for c in range(classes)])
        shares = momentum * shares + (1 - momentum) * now
        confidence = momentum * confidence + (1 - momentum) * top.mean()
        if form == "freematch":
            thresholds = shares / shares.max() * confidence
        else:
            beta = shares / max(shares.max(), 1 - shares.sum())
            thresholds = beta / (2 - beta) * tau
        labels, mask = labeler(logits(shape, step))
        np.testing.assert_allclose(labeler.thresholds.numpy(), thresholds, rtol=1e-5)
        np.testing.assert_array_equal(voxels(labels.numpy())[:, 0], winner)
        np.testing.assert_array_equal(voxels(mask.numpy())[:, 0], top >= thresholds[winner])


@EVERY_SHAPE
def test_soft_weights_are_those_of_the_formula(shape):
    weight, mean, variance, momentum = SoftMatchWeight(shape[1], 0.6), 1 / shape[1], 1.0, 0.6
    for step in range(3):
        top = voxels(softmax(logits(shape, step).numpy())).max(1)
        mean = momentum * mean + (1 - momentum) * top.mean()
        variance = momentum * variance + (1 - momentum) * top.var(ddof=1)
        expected = np.exp(-(np.minimum(top - mean, 0) ** 2) * 4 / (2 * variance))
        got = weight(logits(shape, step))
        assert got.shape == (shape[0], 1, *shape[2:])
        np.testing.assert_allclose(voxels(got.numpy())[:, 0], expected, rtol=1e-5)


@EVERY_SHAPE
def test_aligned_probabilities_are_those_of_the_formula(shape):
    alignment, momentum = DistributionAlignment(shape[1], 0.6), 0.6
    target, predicted = None, np.full(shape[1], 1 / shape[1])
    for step in range(3):
        labels = class_maps(shape, step)
        now = np.bincount(labels.flatten().numpy(), minlength=shape[1]) / labels.numel()
        target = now if target is None else momentum * target + (1 - momentum) * now
        alignment.update(labels)
        p = voxels(softmax(logits(shape, step).numpy()))
        predicted = momentum * predicted + (1 - momentum) * p.mean(0)
        expected = p * np.maximum(target, 1e-6) / predicted
        got = alignment(logits(shape, step))
        np.testing.assert_allclose(voxels(got.numpy()), expected / expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-9)


def test_alignment_brings_the_shares_to_those_of_the_labelled_voxels():
    alignment = DistributionAlignment(2, momentum=0.0)
    labels = torch.zeros(1, 1, 10, 10, dtype=torch.int64)
    labels[..., :2] = 1
    alignment.update(labels)
    p = logits((1, 2, 10, 10), scale=0.3).softmax(1)
    before, after = p.mean((0, 2, 3))[1].item(), alignment.from_probabilities(p).mean((0, 2, 3))[1].item()
    assert abs(after - 0.2) < 0.02 < abs(before - 0.2)


def test_difficulty_is_that_of_the_formula():
    history = np.array([[0.9, 0.2, 0.4], [0.92, 0.5, 0.3], [0.91, 0.6, 0.35]])
    momentum, learned, unlearned, missing = 0.8, np.zeros(3), np.zeros(3), np.ones(3)
    weight = DifficultyWeight(3, momentum)
    torch.testing.assert_close(weight.weights, torch.ones(3))
    for step, dice in enumerate(history):
        weight.update(torch.tensor(dice))
        if step:
            last = history[step - 1]
            change = (dice - last) * np.log(dice / last)
            learned = momentum * learned + (1 - momentum) * change * (dice > last)
            unlearned = momentum * unlearned + (1 - momentum) * change * (dice <= last)
            missing = momentum * missing + (1 - momentum) * (1 - dice)
    expected = ((unlearned + 1e-8) / (learned + 1e-8)) ** 0.2 * missing
    np.testing.assert_allclose(weight().numpy(), expected / expected.mean(), rtol=1e-3)


def test_a_class_that_is_absent_keeps_its_difficulty():
    weight = DifficultyWeight(2, momentum=0.5)
    for dice in ([0.5, 0.5], [0.6, 0.4]):
        weight.update(torch.tensor(dice))
    before = {name: value.clone() for name, value in weight.state_dict().items()}
    weight.update(torch.tensor([0.7, float("nan")]))
    after = weight.state_dict()
    assert all(after[name][1] == before[name][1] for name in before)
    assert after["last"][0] == pytest.approx(0.7)
    weight.update(torch.tensor([1.0, 1.0]))
    assert torch.isfinite(weight.weights).all()


@EVERY_SHAPE
def test_disagreement_learning_has_the_value_of_its_formula(shape):
    a, b, labels = logits(shape), logits(shape, 1), class_maps(shape)
    total, count = 0.0, 0
    for p, r, y in zip(*(voxels(softmax(z.numpy())) for z in (a, b)), labels.flatten().numpy(), strict=True):
        if p.argmax() != r.argmax():
            count += 1
            total += 0.5 * ((p - np.eye(len(p))[y]) ** 2).sum() / 2
            total += 0.05 * (p.argmax() != y) * ((p * np.log(p)).sum() + np.log(len(p)))
    assert DisagreementLearningLoss()(a, b, labels).item() == pytest.approx(total / count, rel=1e-6)


@EVERY_SHAPE
def test_disagreement_learning_moves_its_first_input_only(shape):
    a, b = logits(shape).requires_grad_(), logits(shape, 1).requires_grad_()
    gradients = torch.autograd.grad(DisagreementLearningLoss()(a, b, class_maps(shape)), [a, b], allow_unused=True)
    agree = a.argmax(1) == b.argmax(1)
    assert gradients[1] is None and gradients[0].abs().sum() > 0
    assert not gradients[0].movedim(1, -1)[agree].any()


def test_forgetting_what_is_wrong_is_bounded_and_ends_at_uniform():
    loss = DisagreementLearningLoss(mse_weight=0.0, kl_weight=1.0)
    labels = torch.full((1, 1, 1, 1), 2)
    for gap, expected in ((1e4, np.log(3)), (1e-6, 0.0)):
        a = torch.tensor([gap, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1).requires_grad_()
        value = loss(a, a.detach().flip(1), labels)
        (gradient,) = torch.autograd.grad(value, a)
        assert value.item() == pytest.approx(expected, abs=1e-6) and gradient.abs().max() < 1e-5


def test_disagreement_learning_follows_its_mask():
    a, b, labels = logits((2, 3, 6, 5)), logits((2, 3, 6, 5), 1), class_maps((2, 3, 6, 5))
    mask = class_maps((2, 2, 6, 5), 3).bool()
    each = DisagreementLearningLoss(reduction="none")(a, b, labels)
    counted = (a.argmax(1, keepdim=True) != b.argmax(1, keepdim=True)) & mask
    torch.testing.assert_close(DisagreementLearningLoss()(a, b, labels, mask), each[counted].mean())
    a.requires_grad_()
    nothing = DisagreementLearningLoss()(a, b, labels, torch.zeros_like(mask))
    nothing.backward()
    assert nothing.item() == 0 and not a.grad.any()


@pytest.mark.parametrize("size", [(20, 20), (9, 10, 8)])
@pytest.mark.parametrize("ignore", [False, True])
def test_the_largest_component_of_each_class_stays(size, ignore):
    labels = torch.randint(0, 3, (3, 1, *size), generator=torch.Generator().manual_seed(0)).clamp(max=2)
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > 0.3
    expected = np.zeros(labels.shape, dtype=bool)
    for item in range(3):
        for label in (1, 2):
            found, _ = ndimage.label(labels[item, 0].numpy() == label)
            sizes = np.bincount(found.ravel())
            sizes[0] = 0
            expected[item, 0] |= (labels[item, 0].numpy() == label) & (found != sizes.argmax())
    got, kept = LargestComponent(ignore=ignore)(labels, mask)
    assert expected.any()
    if ignore:
        torch.testing.assert_close(got, labels)
        np.testing.assert_array_equal(kept.numpy(), mask.numpy() & ~expected)
    else:
        np.testing.assert_array_equal(got.numpy(), np.where(expected, 0, labels.numpy()))
        torch.testing.assert_close(kept, mask)


def test_only_the_classes_that_are_listed_are_cleaned_up():
    labels = torch.tensor([[[[1, 0, 1, 1, 2, 0, 2]]]])
    assert LargestComponent(classes=[1])(labels)[0].flatten().tolist() == [0, 0, 1, 1, 2, 0, 2]
    empty = LargestComponent()(labels[:0])
    assert empty[0].shape == empty[1].shape == (0, 1, 1, 7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptiveConfidencePseudoLabeler(2),
        lambda: AdaptiveConfidencePseudoLabeler(2, form="flexmatch", threshold=0.5),
        lambda: SoftMatchWeight(2),
        lambda: DistributionAlignment(2),
    ],
)
def test_state_moves_in_training_mode_with_finite_batches_only_and_is_saved(make):
    module, z = make(), logits((2, 2, 4, 4))
    start = {name: value.clone() for name, value in module.state_dict().items()}
    module.eval()(z)
    module.train()(z * float("nan"))
    module(z[:0])
    for name, value in module.state_dict().items():
        assert torch.equal(value, start[name]), name
    module(z)
    assert any(not torch.equal(value, start[name]) for name, value in module.state_dict().items())
    restored = make()
    restored.load_state_dict(module.state_dict())
    torch.testing.assert_close(restored.eval()(z), module.eval()(z))


def test_nothing_of_a_labeller_or_weight_has_a_gradient():
    z = logits((1, 2, 4, 4)).requires_grad_()
    for module in (SoftMatchWeight(2), DistributionAlignment(2)):
        assert not module(z).requires_grad
    for labeler in (ConfidencePseudoLabeler(), AdaptiveConfidencePseudoLabeler(2)):
        assert not any(tensor.requires_grad for tensor in labeler(z))


def test_a_prediction_holds_probabilities_in_float32_with_a_gradient():
    z = logits((2, 3, 4, 4)).half().requires_grad_()
    log_p, p, entropy = predict(z)
    assert log_p.dtype == p.dtype == entropy.dtype == torch.float32
    assert p.requires_grad and not entropy.requires_grad
    expected = -(softmax(z.detach().double().numpy()) * z.detach().double().log_softmax(1).numpy()).sum(1)
    np.testing.assert_allclose(entropy[:, 0].numpy(), expected, atol=1e-5)


def test_one_batch_that_is_not_finite_does_not_spoil_a_memory():
    bank = PrototypeBank(3, 2, momentum=0.5)
    bank.update(torch.tensor([[1.0, 1.0], [float("nan"), 1.0], [float("inf"), 0.0]]), torch.ones(3))
    assert bank.seen.tolist() == [True, False, False] and not bank.prototypes[1:].any()
    bank.update(torch.tensor([[float("nan"), 3.0], [2.0, 2.0], [0.0, 0.0]]), torch.tensor([1.0, 1.0, 0.0]))
    assert bank.prototypes.tolist() == [[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]]
    memory = ClassMemoryBank(2, 1, size=4)
    features = torch.tensor([[[float("nan")], [2.0], [3.0]], [[4.0], [float("inf")], [5.0]]])
    memory.push(features, torch.tensor([[True, True, True], [True, True, False]]))
    assert memory.features[..., 0].tolist() == [[2, 3, 0, 0], [4, 0, 0, 0]] and memory.filled.tolist() == [2, 1]


def test_a_running_mean_that_keeps_no_initial_value_starts_with_the_first_mean():
    mean = RunningMean(torch.zeros(2), momentum=0.5, keep_initial=False)
    mean.update(torch.tensor([4.0, 1.0]), torch.tensor([2, 0]))
    mean.update(torch.tensor([4.0, 3.0]), torch.tensor([1, 1]))
    assert mean.value.tolist() == [3.0, 3.0] and mean.seen.all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConfidencePseudoLabeler(threshold=1.2), "1.2"),
        (lambda: ConfidencePseudoLabeler(threshold=0.9, rise_to=0.8), "0.8"),
        (lambda: ConfidencePseudoLabeler()(torch.zeros(1, 2, 3), progress=-0.1), "-0.1"),
        (lambda: AdaptiveConfidencePseudoLabeler(1), "got 1"),
        (lambda: AdaptiveConfidencePseudoLabeler(2, form="fixmatch"), "'fixmatch'"),
        (lambda: AdaptiveConfidencePseudoLabeler(2, momentum=1.5), "1.5"),
        (lambda: AdaptiveConfidencePseudoLabeler(2, threshold=-1.0), "-1.0"),
        (lambda: AdaptiveConfidencePseudoLabeler(3)(torch.zeros(1, 2, 4)), "num_classes=3"),
        (lambda: SoftMatchWeight(2, n_sigma=0.0), "0.0"),
        (lambda: LargestComponent(classes=[0, 1]), r"\[0, 1\]"),
        (lambda: LargestComponent()(torch.zeros(1, 2, 4, 4)), r"\[1, 2, 4, 4\]"),
        (lambda: DifficultyWeight(2, exponent=-1.0), "-1.0"),
        (lambda: DifficultyWeight(2).update(torch.zeros(3)), r"\(3,\)"),
        (lambda: DisagreementLearningLoss(kl_weight=-0.1), "-0.1"),
    ],
)
def test_a_wrong_option_or_shape_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


RANK = """
import sys, torch
from torch import distributed
from {package} import AdaptiveConfidencePseudoLabeler, DifficultyWeight, DistributionAlignment, SoftMatchWeight
p = torch.tensor([[[[0.9, 0.8, 0.6, 0.7]], [[0.1, 0.2, 0.4, 0.3]]]])
labels = torch.tensor([[[[0, 1, 1, 0]]]])
dice = torch.tensor([[0.5, 0.4], [0.7, 0.9]])
rank = int(sys.argv[1])
if rank >= 0:
    distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
    p, labels = (t[..., 2 * rank : 2 * rank + 2] for t in (p, labels))
modules = [AdaptiveConfidencePseudoLabeler(2, 0.5), AdaptiveConfidencePseudoLabeler(2, 0.5, "flexmatch", 0.65)]
modules += [SoftMatchWeight(2, 0.5), DistributionAlignment(2, 0.5), DifficultyWeight(2, 0.5)]
for module in modules[:4]:
    module.from_probabilities(p)
modules[3].update(labels)
for now in dice:
    modules[4].update(now)
print([[round(x, 4) for v in m.state_dict().values() for x in v.flatten().tolist()] for m in modules])
if rank >= 0:
    distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_keep_the_state_of_one_that_sees_everything(tmp_path, pytestconfig):
    code = RANK.format(package=losses.__name__)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=pytestconfig.rootpath,
        )
        for rank in (-1, 0, 1)
    ]
    alone, *ranks = [run.communicate(timeout=300)[0].strip() for run in runs]
    assert alone and ranks == [alone, alone]
