# SPDX-License-Identifier: Apache-2.0
"""Labels with voxels or classes that nobody has annotated: what is missing has no say in the loss."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from scripts.losses import (
    BoxMix,
    CopyPasteLoss,
    DisagreementRectificationLoss,
    MixedBatch,
    PartialDiceCELoss,
    PartialDiceLoss,
    merge_background,
)

CLASSES = 4


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, CLASSES, 4, 5, 6, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, CLASSES, (3, 1, 4, 5, 6), generator=generator)
    mask = torch.rand(3, 1, 4, 5, 6, generator=generator) < 0.4
    return logits, labels, mask


# of the three images: all classes, only class 2, classes 1 and 3
ANNOTATED = torch.tensor([[True] * 4, [True, False, True, False], [True, True, False, True]])


def as_annotated(labels):
    """The same labels, where the classes that were not annotated are drawn as background."""
    known = ANNOTATED.gather(1, labels.flatten(1)).view_as(labels)
    return labels.where(known, 0)


def reference(logits, labels, mask, annotated, squared):
    """(Dice, cross entropy) by loops over images and classes, in NumPy."""
    logits, labels, mask = (one.numpy() for one in (logits, labels, mask))
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    overlap, size, entropies = np.zeros(CLASSES), np.zeros(CLASSES), []
    for image in range(len(logits)):
        drawn = mask[image, 0]
        q = {c: p[image, c][drawn] for c in range(CLASSES) if annotated[image, c]}
        q[0] = 1 - sum(q[c] for c in q if c)
        truth = labels[image, 0][drawn]
        for c, own in q.items():
            target = truth == c
            overlap[c] += (own * target).sum()
            size[c] += ((own**2 if squared else own) + target).sum()
            entropies.append(-np.log(own[target]))
    dice = 1 - (2 * overlap + 1e-5) / (size + 1e-5)
    return dice.mean(), np.concatenate(entropies).mean()


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("partial", ["voxels", "classes", "both"])
def test_value_is_that_of_a_loop_over_what_was_annotated(inputs, partial, squared):
    logits, labels, mask = inputs
    mask = mask if partial != "classes" else None
    classes = ANNOTATED if partial != "voxels" else None
    labels = labels if classes is None else as_annotated(labels)
    every = torch.ones_like(labels, dtype=torch.bool)
    expected = reference(
        logits,
        labels,
        every if mask is None else mask,
        torch.ones(3, 4, dtype=torch.bool) if classes is None else classes,
        squared,
    )
    options = {"batch": True, "squared_pred": squared}
    assert PartialDiceLoss(**options)(logits, labels, mask, classes).item() == pytest.approx(expected[0], rel=1e-9)
    loss = PartialDiceCELoss(**options, lambda_dice=0.5, lambda_ce=2.0)(logits, labels, mask, classes)
    assert loss.item() == pytest.approx(0.5 * expected[0] + 2 * expected[1], rel=1e-9)


@pytest.mark.parametrize("options", [{}, {"batch": True, "squared_pred": True}, {"include_background": False}])
def test_complete_labels_give_the_very_numbers_of_monai(inputs, options):
    logits, labels, _ = inputs
    logits = logits.float()
    monai = {"to_onehot_y": True, "softmax": True, **options}
    assert torch.equal(PartialDiceCELoss(**options)(logits, labels), DiceCELoss(**monai)(logits, labels))
    assert torch.equal(PartialDiceLoss(**options)(logits, labels), DiceLoss(**monai)(logits, labels))
    everything = (torch.ones_like(labels, dtype=torch.bool), torch.ones(3, CLASSES, dtype=torch.bool))
    torch.testing.assert_close(
        PartialDiceCELoss(**options)(logits, labels, *everything), DiceCELoss(**monai)(logits, labels)
    )


def test_dice_of_regions_is_that_of_summed_probabilities(inputs):
    """Against loops in NumPy; a region with a class that an image lacks is not of that image's loss."""
    logits, labels, mask = inputs
    labels = as_annotated(labels)
    regions = [[1, 2, 3], [1, 3], [3]]
    p, truth, drawn = logits.softmax(1).numpy(), labels.numpy()[:, 0], mask.numpy()[:, 0]
    overlap, size = np.zeros(4), np.zeros(4)
    for image, annotated in enumerate(ANNOTATED.numpy()):
        absent = [c for c in range(1, CLASSES) if not annotated[c]]
        whole = [c for c in range(4) if c == 0 or all(annotated[regions[c - 1]])]
        for number in whole:
            own = regions[number - 1] if number else [0, *absent]
            q, t = p[image, own].sum(0)[drawn[image]], np.isin(truth[image], regions[number - 1] if number else [0])
            t = t[drawn[image]]
            overlap[number] += (q * t).sum()
            size[number] += (q**2 + t).sum()
    expected = (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()
    loss = PartialDiceLoss(batch=True, squared_pred=True, regions=regions)
    assert loss(logits, labels, mask, ANNOTATED).item() == pytest.approx(expected, rel=1e-9)
    complete = PartialDiceLoss(batch=True, squared_pred=True, regions=[[1], [2], [3]])(logits, labels)
    assert complete.item() == pytest.approx(PartialDiceLoss(batch=True, squared_pred=True)(logits, labels).item())
    both = PartialDiceCELoss(batch=True, squared_pred=True, regions=regions)(logits, labels)
    classes = PartialDiceCELoss(lambda_dice=0.0)(logits, labels)
    assert both.item() == pytest.approx((loss(logits, labels) + classes).item())
    with pytest.raises(ValueError, match="lists of foreground classes"):
        PartialDiceLoss(regions=[[0, 1]])


@pytest.mark.parametrize("loss", [PartialDiceLoss(batch=True), PartialDiceCELoss(batch=True, squared_pred=True)])
def test_ignored_voxels_have_no_gradient_and_no_say(inputs, loss):
    logits, labels, mask = inputs
    logits.requires_grad_()
    value = loss(logits, labels, mask)
    [gradient] = torch.autograd.grad(value, logits)
    assert (gradient[~mask.expand_as(gradient)] == 0).all() and (gradient[mask.expand_as(gradient)] != 0).any()
    assert torch.equal(loss(logits, labels.where(mask, 3), mask), value)


def test_a_class_that_was_not_annotated_is_not_called_background(inputs):
    """On voxels drawn as background, probability may move from background to that class for nothing."""
    logits, labels, mask = inputs
    labels = as_annotated(labels)
    p = logits.softmax(1)
    moved = p.clone()
    moved[1, 0], moved[1, 1] = 0.3 * p[1, 0], p[1, 1] + 0.7 * p[1, 0]
    loss = PartialDiceCELoss(batch=True)
    before, after = (loss(one.log(), labels, mask, ANNOTATED) for one in (p, moved))
    torch.testing.assert_close(before, after)
    assert loss(moved.log(), labels, mask) > loss(p.log(), labels, mask) + 0.01  # "the rest is background" minds


def test_nothing_drawn_is_a_zero_that_backpropagates(inputs):
    logits, labels, mask = inputs
    logits.requires_grad_()
    loss = PartialDiceCELoss(batch=True)(logits, labels, torch.zeros_like(mask))
    assert loss.item() == 0
    assert (torch.autograd.grad(loss, logits)[0] == 0).all()


def test_merged_probabilities_still_sum_to_one(inputs):
    p = inputs[0].softmax(1)
    merged = merge_background(p, ANNOTATED)
    torch.testing.assert_close(merged.sum(1), torch.ones(3, 4, 5, 6, dtype=torch.float64))
    assert (merged[1, [1, 3]] == 0).all() and torch.equal(merged[0], p[0])
    torch.testing.assert_close(merged[1, 0], p[1, 0] + p[1, 1] + p[1, 3])


def test_classes_of_another_form_are_refused(inputs):
    logits, labels, _ = inputs
    for wrong in (ANNOTATED.float(), ANNOTATED[:2], ANNOTATED[:, :3]):
        for loss in (PartialDiceLoss(), PartialDiceCELoss(), lambda a, y, m, c: rectification()(a, a, y, m, c)):
            with pytest.raises(ValueError, match="classes must be a bool tensor"):
                loss(logits, labels, None, wrong)


def rectification():
    return DisagreementRectificationLoss(threshold=0.3)


def test_rectification_compares_what_the_label_can_tell():
    """Two networks that differ in a class that was not annotated agree; one that misses an annotated one learns it."""
    certain = torch.full((1, CLASSES, 3, 1), -8.0)
    student, teacher = certain.clone(), certain.clone()
    student[0, [0, 1, 0], [0, 1, 2]] = 8.0
    teacher[0, [1, 3, 2], [0, 1, 2]] = 8.0
    labels, only_class_2 = torch.tensor([0, 0, 2]).view(1, 1, 3, 1), ANNOTATED[1:2]
    values = DisagreementRectificationLoss(threshold=0.5, reduction="none")(
        student, teacher, labels, None, only_class_2
    )
    assert values.flatten().tolist() == pytest.approx([0.0, 0.0, 1.0], abs=1e-5)


def test_a_pasted_voxel_that_nobody_has_labelled_does_not_count(inputs):
    logits, labels, mask = inputs
    generator = torch.Generator().manual_seed(1)
    image, other = torch.randn(2, 3, 1, 4, 5, 6, generator=generator)
    pseudo, reliable = labels.flip(0), torch.ones_like(mask)
    torch.manual_seed(0)
    mixed = BoxMix()(image, labels, other, pseudo, reliable, mask)
    torch.manual_seed(0)
    whole = BoxMix()(image, labels, other, pseudo, reliable)
    assert torch.equal(whole.is_labeled, mixed.is_labeled) and torch.equal(whole.image, mixed.image)
    assert whole.counts.all() and torch.equal(mixed.counts, ~whole.is_labeled | mask)
    relabeled = mixed.relabeled(pseudo, torch.zeros_like(reliable))
    assert torch.equal(relabeled.counts, mixed.is_labeled & mask)
    loss, hidden = CopyPasteLoss(), mixed.is_labeled & ~mask
    changed = mixed._replace(label=mixed.label.where(~hidden, 0))
    assert hidden.any() and not torch.equal(changed.label, mixed.label)
    assert torch.equal(loss(logits, changed), loss(logits, mixed))


def test_copy_paste_learns_the_marginal_where_classes_are_missing(inputs):
    """Its labelled part is half of what the supervised loss says of the same voxels."""
    logits, labels, mask = inputs
    labels = as_annotated(labels)
    nothing = torch.zeros_like(mask)
    mixed = MixedBatch(None, labels, mask, mask | nothing, ANNOTATED)
    expected = PartialDiceCELoss(batch=True, squared_pred=True)(logits.float(), labels, mask, ANNOTATED) / 2
    torch.testing.assert_close(CopyPasteLoss()(logits, mixed), expected)
    assert torch.equal(mixed.certain[0], mask[0])  # an image with all classes
    assert torch.equal(mixed.certain[1:], mask[1:] & (labels[1:] > 0))
