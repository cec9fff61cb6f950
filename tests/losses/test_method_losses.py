# SPDX-License-Identifier: Apache-2.0
"""Each term has the value of its formula, moves the network it should and no other, and survives degenerate input."""

import numpy as np
import pytest
import torch

from scripts.losses import (
    CosineConsistencyLoss,
    CosineRamp,
    CrossConsistencyEnhancementLoss,
    DisagreementRectificationLoss,
    EntropyFilteredPseudoLabeler,
    EntropyFilteredPseudoLoss,
    LinearRamp,
    PrototypeBank,
    PrototypeContrastiveLoss,
    SigmoidRamp,
    UncertaintyWeightedCrossPseudoLoss,
)

from . import loss_references as reference

CLASSES = [2, 3, 14]
SPATIAL = [(7, 6), (4, 5, 3)]
EVERY_SHAPE = pytest.mark.parametrize("shape", [(2, c, *s) for c in CLASSES for s in SPATIAL], ids=str)
FEATURE_CHANNELS = 4


def draw(shape, dtype=torch.float64, scale=2.0, seed=0):
    """Logits of two networks, a ground truth, features, and a mask, all random."""
    generator = torch.Generator().manual_seed(seed)
    logits = [(torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype) for _ in range(2)]
    one = (shape[0], 1, *shape[2:])
    labels = torch.randint(0, shape[1], one, generator=generator)
    features = torch.randn((shape[0], FEATURE_CHANNELS, *shape[2:]), generator=generator, dtype=torch.float64)
    return *logits, labels, features.to(dtype), torch.rand(one, generator=generator) > 0.4


def contrastive(classes, **options):
    """A contrastive loss that takes every unreliable voxel as an anchor, so that nothing is left to chance."""
    everything = {"anchor_fraction": 1.0, "min_anchors": 1, "max_anchors": 10**6}
    return PrototypeContrastiveLoss(classes, FEATURE_CHANNELS, **{**everything, **options}).double()


# Each term by one signature: (a, b, labels, features, mask) -> scalar, and which of a, b, features it trains.
TERMS = {
    "rectification": (lambda a, b, y, f, m: DisagreementRectificationLoss(threshold=0.3)(a, b, y), {"a"}),
    "rectification_xor": (
        lambda a, b, y, f, m: DisagreementRectificationLoss(threshold=0.4, mode="foreground_xor")(a, b, y),
        {"a"},
    ),
    "cross_pseudo": (lambda a, b, y, f, m: UncertaintyWeightedCrossPseudoLoss()(a, b), {"a"}),
    "cross_pseudo_attached": (
        lambda a, b, y, f, m: UncertaintyWeightedCrossPseudoLoss(detach_weight=False, hard=True)(a, b, m),
        {"a"},
    ),
    "entropy_filtered": (lambda a, b, y, f, m: EntropyFilteredPseudoLoss()(a, y, m), {"a"}),
    "entropy_filter_and_loss": (
        lambda a, b, y, f, m: EntropyFilteredPseudoLoss()(a, *EntropyFilteredPseudoLabeler()(a, b)),
        {"a"},
    ),
    "cosine": (lambda a, b, y, f, m: CosineConsistencyLoss()(a, b), {"a", "b"}),
    "consistency": (lambda a, b, y, f, m: CrossConsistencyEnhancementLoss()(a, b), {"a", "b"}),
    "consistency_a": (lambda a, b, y, f, m: CrossConsistencyEnhancementLoss(direction="a_from_b")(a, b), {"a"}),
    "consistency_b": (lambda a, b, y, f, m: CrossConsistencyEnhancementLoss(direction="b_from_a")(a, b), {"b"}),
    "contrastive": (lambda a, b, y, f, m: contrastive(a.shape[1])(f, a, y, m), {"f"}),
    "contrastive_distance": (lambda a, b, y, f, m: contrastive(a.shape[1], form="distance")(f, a, y, m), {"f"}),
}
EVERY_TERM = pytest.mark.parametrize("term", TERMS)


@EVERY_TERM
@EVERY_SHAPE
def test_a_term_moves_what_it_trains_and_nothing_else(term, shape):
    a, b, labels, features, mask = draw(shape)
    inputs = {"a": a, "b": b, "f": features}
    for tensor in inputs.values():
        tensor.requires_grad_()
    compute, trained = TERMS[term]
    gradients = torch.autograd.grad(compute(a, b, labels, features, mask), inputs.values(), allow_unused=True)
    for name, gradient in zip(inputs, gradients, strict=True):
        if name in trained:
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name
        else:
            assert gradient is None or not gradient.any(), name


@EVERY_SHAPE
@pytest.mark.parametrize("mode", ["disagreement", "foreground_xor"])
@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_rectification_has_the_value_of_its_formula(shape, mode, threshold):
    a, b, labels, _, _ = draw(shape)
    expected = reference.disagreement_rectification(a.numpy(), b.numpy(), labels.numpy(), threshold, mode)
    value = DisagreementRectificationLoss(threshold, mode)(a, b, labels)
    assert value.item() == pytest.approx(expected, rel=1e-6)


@EVERY_SHAPE
@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "gamma": 0.3}, {"hard": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_cross_pseudo_supervision_has_the_value_of_its_formula(shape, options, masked):
    a, b, _, _, mask = draw(shape)
    mask = mask if masked else None
    expected = reference.uncertainty_weighted_cross_pseudo(
        a.numpy(), b.numpy(), None if mask is None else mask.numpy(), **options
    )
    for detach_weight in (True, False):
        value = UncertaintyWeightedCrossPseudoLoss(detach_weight=detach_weight, **options)(a, b, mask)
        assert value.item() == pytest.approx(expected, rel=1e-6)


def test_an_attached_weight_rewards_disagreement():
    """Why the weight is a constant by default: with its gradient, being wrong can pay."""
    student = torch.tensor([[[[0.0]], [[1.0]], [[0.0]]]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[[[2.0]], [[0.0]], [[0.0]]]], dtype=torch.float64)
    gradients = [
        torch.autograd.grad(UncertaintyWeightedCrossPseudoLoss(detach_weight=d, gamma=0.0)(student, teacher), student)[
            0
        ]
        for d in (True, False)
    ]
    assert gradients[0].flatten()[0] < gradients[1].flatten()[0]


@EVERY_SHAPE
@pytest.mark.parametrize("combine", ["either", "both"])
@pytest.mark.parametrize("per_class", [True, False])
@pytest.mark.parametrize("drop_fraction", [0.0, 0.2, 0.5])
def test_the_entropy_filter_keeps_what_its_definition_keeps(shape, combine, per_class, drop_fraction):
    a, b, *_ = draw(shape)
    labels, mask = EntropyFilteredPseudoLabeler(drop_fraction, combine, per_class)(a, b)
    expected_labels, expected_mask = reference.entropy_filter(a.numpy(), b.numpy(), drop_fraction, combine, per_class)
    np.testing.assert_array_equal(labels.numpy(), expected_labels)
    np.testing.assert_array_equal(mask.numpy(), expected_mask)


@EVERY_SHAPE
def test_entropy_filtered_and_cosine_terms_have_the_value_of_their_formulas(shape):
    a, b, labels, _, mask = draw(shape)
    numpy = [tensor.numpy() for tensor in (a, b, labels, mask)]
    filtered = EntropyFilteredPseudoLoss()(a, labels, mask)
    assert filtered.item() == pytest.approx(reference.entropy_filtered_pseudo(numpy[0], *numpy[2:]), rel=1e-6)
    cosine = CosineConsistencyLoss()(a, b, mask)
    assert cosine.item() == pytest.approx(reference.cosine_consistency(numpy[0], numpy[1], numpy[3]), rel=1e-6)


@EVERY_SHAPE
def test_cross_consistency_enhancement_is_the_sum_of_its_parts(shape):
    a, b, *_ = draw(shape)
    loss = CrossConsistencyEnhancementLoss()
    assert loss(a, b).item() == pytest.approx(reference.cross_consistency_enhancement(a.numpy(), b.numpy()), rel=1e-6)
    labels, mask = loss.labeler(a, b)
    terms = loss.terms(a, b, labels, mask)
    torch.testing.assert_close(sum(terms.values()), loss(a, b))
    torch.testing.assert_close(loss.labels_and_terms(a, b), (labels, mask, terms))
    part = EntropyFilteredPseudoLoss()
    torch.testing.assert_close(terms["entropy_filtered"], part(a, labels, mask) + part(b, labels, mask))


@pytest.mark.parametrize("hard", [False, True])
def test_the_options_of_cross_consistency_enhancement_reach_its_parts(hard):
    a, b, *_ = draw((2, 3, 6, 5))
    cross = {"temperature": 1.5, "gamma": 0.3, "hard": hard}
    filtering = {"drop_fraction": 0.4, "combine": "both", "per_class": False}
    terms = CrossConsistencyEnhancementLoss(cosine_weight=0.7, **cross, **filtering).terms(a, b)
    n_a, n_b = a.numpy(), b.numpy()
    labels, mask = reference.entropy_filter(n_a, n_b, **filtering)
    expected = {
        "cross_pseudo": np.mean(
            [reference.uncertainty_weighted_cross_pseudo(*pair, **cross) for pair in ((n_a, n_b), (n_b, n_a))]
        ),
        "entropy_filtered": sum(reference.entropy_filtered_pseudo(z, labels, mask) for z in (n_a, n_b)),
        "cosine": 0.7 * reference.cosine_consistency(n_a, n_b),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-6)


def test_cross_consistency_enhancement_attaches_the_weight_when_asked():
    a, b, *_ = draw((2, 3, 6, 5))
    a.requires_grad_()
    gradients = [
        torch.autograd.grad(term, a)[0]
        for term in (
            CrossConsistencyEnhancementLoss(detach_weight=False, direction="a_from_b").terms(a, b)["cross_pseudo"],
            UncertaintyWeightedCrossPseudoLoss(detach_weight=False)(a, b),
            UncertaintyWeightedCrossPseudoLoss()(a, b),
        )
    ]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert not torch.allclose(gradients[0], gradients[2])


def test_cross_consistency_enhancement_wants_labels_and_mask_together():
    a, b, labels, _, mask = draw((2, 3, 6, 5))
    for given in ({"labels": labels}, {"mask": mask}):
        with pytest.raises(ValueError, match="only one of them"):
            CrossConsistencyEnhancementLoss()(a, b, **given)


def test_labels_and_mask_that_are_given_replace_those_of_the_labeller():
    a, b, labels, _, mask = draw((2, 3, 6, 5))
    terms = CrossConsistencyEnhancementLoss().terms(a, b, labels, mask)
    expected = sum(reference.entropy_filtered_pseudo(z.numpy(), labels.numpy(), mask.numpy()) for z in (a, b))
    assert terms["entropy_filtered"].item() == pytest.approx(expected, rel=1e-6)


def test_a_network_at_the_threshold_is_sure():
    a, b = torch.tensor([[[[200.0]], [[-200.0]]]]), torch.tensor([[[[0.0]], [[0.1]]]])
    assert DisagreementRectificationLoss(threshold=1.0)(a, b, torch.tensor([[[[1]]]])).item() == 1.0


@EVERY_SHAPE
@pytest.mark.parametrize("form", ["infonce", "distance"])
def test_the_contrastive_term_has_the_value_of_its_formula(shape, form):
    a, _, labels, features, mask = draw(shape)
    expected = reference.prototype_contrastive(*(t.numpy() for t in (features, a, labels, mask)), form=form)
    assert contrastive(shape[1], form=form)(features, a, labels, mask).item() == pytest.approx(expected, rel=1e-6)


def test_features_at_half_resolution_are_read_at_the_centre_of_their_cells():
    a, _, labels, _, mask = draw((2, 3, 8, 8))
    features = draw((2, 3, 4, 4))[3]
    coarse = [tensor[..., 1::2, 1::2] for tensor in (a, labels, mask)]
    whole, reduced = contrastive(3)(features, a, labels, mask), contrastive(3)(features, *coarse)
    torch.testing.assert_close(whole, reduced)


def test_prototypes_are_moving_averages_kept_in_the_state():
    loss = contrastive(2, momentum=0.9)
    features = torch.ones(1, FEATURE_CHANNELS, 2, 2, dtype=torch.float64)
    logits, labels = torch.zeros(1, 2, 2, 2).double(), torch.zeros(1, 1, 2, 2, dtype=torch.long)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    loss(features, logits, labels, mask)
    loss(3 * features, logits, labels, mask)
    torch.testing.assert_close(loss.bank.prototypes[0], torch.full((FEATURE_CHANNELS,), 1.2).double())
    assert loss.bank.seen.tolist() == [True, False]
    loss.eval()
    loss(9 * features, logits, labels, mask)
    torch.testing.assert_close(loss.bank.prototypes[0], torch.full((FEATURE_CHANNELS,), 1.2).double())
    restored = contrastive(2)
    restored.load_state_dict(loss.state_dict())
    assert torch.equal(restored.bank.prototypes, loss.bank.prototypes)
    assert loss.skipped.item() == 2  # one class: nothing to contrast with


def test_a_class_that_is_absent_keeps_its_prototype():
    bank = PrototypeBank(2, 1, momentum=0.5)
    bank.update(torch.tensor([[4.0], [6.0]]), torch.tensor([2.0, 2.0]))
    bank.update(torch.tensor([[8.0], [0.0]]), torch.tensor([2.0, 0.0]))
    assert bank.prototypes.flatten().tolist() == [3.0, 3.0] and bank.seen.all()


def test_anchors_are_a_random_share_of_the_unreliable_voxels_within_bounds():
    torch.manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([10, 40, 250])).view(1, 1, 15, 20)
    logits = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    mask = torch.zeros_like(labels, dtype=torch.bool)
    features = torch.randn(1, FEATURE_CHANNELS, 15, 20).double().requires_grad_()
    loss = PrototypeContrastiveLoss(3, FEATURE_CHANNELS, anchor_fraction=0.1, min_anchors=3, max_anchors=5).double()
    loss.bank.update(torch.randn(3, FEATURE_CHANNELS).double(), torch.ones(3))
    anchors = [torch.autograd.grad(loss(features, logits, labels, mask), features)[0].any(1) for _ in range(2)]
    for drawn in anchors:
        assert torch.bincount(labels[0, 0][drawn[0]], minlength=3).tolist() == [3, 4, 5]
    assert not torch.equal(*anchors)


@pytest.mark.parametrize("form", ["infonce", "distance"])
def test_without_an_anchor_nothing_is_contrasted(form):
    a, _, labels, features, mask = draw((1, 2, 6, 6))
    loss = contrastive(2, form=form)
    assert loss(features, a, labels, torch.ones_like(mask)).item() == 0 and loss.skipped.item() == 1


@pytest.mark.parametrize("form", ["infonce", "distance"])
def test_with_one_prototype_nothing_is_contrasted(form):
    a, _, labels, features, mask = draw((1, 2, 6, 6))
    loss = contrastive(2, form=form)
    assert loss(features, a, torch.zeros_like(labels), mask).item() == 0 and loss.skipped.item() == 1


def test_a_class_without_a_prototype_has_no_anchors_and_repels_none():
    loss = contrastive(3, temperature=1.0).eval()
    loss.bank.update(torch.eye(3, FEATURE_CHANNELS).double(), torch.tensor([1.0, 1.0, 0.0]).double())
    predicted = torch.tensor([[[[0, 2]]]])
    features = torch.eye(3, FEATURE_CHANNELS).double()[predicted[0, 0]].movedim(-1, 0)[None]
    logits = torch.nn.functional.one_hot(predicted[:, 0], 3).movedim(-1, 1).double()
    value = loss(features, logits, predicted, torch.zeros_like(predicted, dtype=torch.bool))
    assert value.item() == pytest.approx(np.log(1 + np.exp(-1)))


@pytest.mark.parametrize("form", ["infonce", "distance"])
def test_two_batches_can_be_added_up_before_the_backward_pass(form):
    a, _, labels, features, mask = draw((2, 3, 6, 6))
    features.requires_grad_()
    loss = contrastive(3, form=form)
    (loss(features, a, labels, mask) + loss(features, a, labels, ~mask)).backward()
    assert torch.isfinite(features.grad).all() and features.grad.any()


@pytest.mark.parametrize("known", [2, 3])
def test_the_distance_form_compares_classes_of_this_batch_with_known_prototypes_only(known):
    """Orthogonal prototypes are the margin apart, so that only a class that is not there could add to the loss."""
    loss = contrastive(3, form="distance").eval()
    loss.bank.update(torch.eye(3, FEATURE_CHANNELS).double(), (torch.arange(3) < known).double())
    labels = torch.tensor([0, 0, 1, 1]).view(1, 1, 2, 2)
    features = torch.eye(3, FEATURE_CHANNELS).double()[labels[0, 0]].movedim(-1, 0)[None]
    logits = torch.nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).double()
    mask = torch.tensor([True, False, True, False]).view(1, 1, 2, 2)
    assert loss(features, logits, labels, mask).item() == pytest.approx(0, abs=1e-9)


def test_defaults_are_those_of_the_method():
    consistency, contrast = CrossConsistencyEnhancementLoss(), PrototypeContrastiveLoss(2, 1)
    for cross in (UncertaintyWeightedCrossPseudoLoss(), consistency.cross_pseudo):
        assert (cross.temperature, cross.gamma, cross.detach_weight, cross.hard) == (0.5, 1.0, True, False)
    for labeler in (EntropyFilteredPseudoLabeler(), consistency.labeler):
        assert (labeler.drop_fraction, labeler.combine, labeler.per_class) == (0.2, "either", True)
    assert (consistency.cosine_weight, consistency.direction) == (0.1, "both")
    assert (contrast.form, contrast.temperature, contrast.bank.momentum) == ("infonce", 0.1, 0.99)
    assert (contrast.anchor_fraction, contrast.min_anchors, contrast.max_anchors) == (0.01, 64, 2048)
    assert contrast.margin == pytest.approx(2**0.5) and PrototypeBank(2, 1).momentum == 0.99
    rectification = DisagreementRectificationLoss()
    assert (rectification.threshold, rectification.mode, SigmoidRamp().length) == (0.6, "disagreement", 0.4)


def test_a_step_down_the_distance_form_drives_the_closest_prototypes_apart():
    torch.manual_seed(0)
    labels = torch.arange(3).repeat(12).view(1, 1, 6, 6)
    features = (torch.randn(1, FEATURE_CHANNELS, 6, 6) * 0.2 + 1.0).double().requires_grad_()
    logits = torch.zeros(1, 3, 6, 6).double()
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[..., 0, :] = False

    def smallest_distance(f):
        means = [f[0, :, mask[0, 0] & (labels[0, 0] == c)].mean(1) for c in range(3)]
        directions = [reference.unit(mean.numpy()) for mean in means]
        return min(np.linalg.norm(directions[i] - directions[j]) for i, j in ((0, 1), (0, 2), (1, 2)))

    loss = contrastive(3, form="distance")(features, logits, labels, mask)
    (gradient,) = torch.autograd.grad(loss, features)
    before, after = smallest_distance(features.detach()), smallest_distance((features - 0.5 * gradient).detach())
    assert after > before


@pytest.mark.parametrize("term", ["cosine", "consistency"])
def test_swapping_the_networks_changes_nothing_in_a_symmetric_term(term):
    a, b, labels, features, mask = draw((2, 3, 4, 4, 4))
    compute, _ = TERMS[term]
    torch.testing.assert_close(compute(a, b, labels, features, mask), compute(b, a, labels, features, mask))


def test_swapping_the_networks_swaps_the_directions():
    a, b, *_ = draw((2, 3, 4, 4, 4))
    forward = CrossConsistencyEnhancementLoss(direction="a_from_b").terms(a, b)
    backward = CrossConsistencyEnhancementLoss(direction="b_from_a").terms(b, a)
    for name in forward:
        torch.testing.assert_close(forward[name], backward[name])


def test_the_filtered_loss_does_not_depend_on_how_many_voxels_were_dropped():
    a, _, labels, _, mask = draw((1, 3, 6, 6))
    twice = [torch.cat([tensor, tensor], dim=2) for tensor in (a, labels)]
    dropped = torch.cat([mask, torch.zeros_like(mask)], dim=2)
    torch.testing.assert_close(
        EntropyFilteredPseudoLoss()(*twice, dropped), EntropyFilteredPseudoLoss()(a, labels, mask)
    )


@EVERY_TERM
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("case", ["random", "all reliable", "none reliable", "one class", "empty batch"])
def test_degenerate_input_gives_finite_losses_and_gradients(term, dtype, scale, case):
    shape = (0 if case == "empty batch" else 2, 3, 4, 4, 4)
    a, b, labels, features, mask = draw(shape, dtype, scale)
    if case == "all reliable":
        mask = torch.ones_like(mask)
    if case == "none reliable":
        mask = torch.zeros_like(mask)
    if case == "one class":
        labels = torch.zeros_like(labels)
        a, b = (torch.stack([z[:, 0] + 1, z[:, 1] * 0, z[:, 2] * 0], 1) for z in (a, b))
    inputs = [tensor.detach().requires_grad_() for tensor in (a, b, features)]
    value = TERMS[term][0](*inputs[:2], labels, inputs[2], mask)
    assert torch.isfinite(value)
    for gradient in torch.autograd.grad(value, inputs, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@EVERY_TERM
def test_autocast_changes_nothing(term):
    inputs = draw((2, 3, 4, 4, 4), torch.float32)
    torch.manual_seed(0)  # the order of the anchors is random, and with it the last digit of their sum
    plain = TERMS[term][0](*inputs)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(TERMS[term][0](*inputs), plain, rtol=0, atol=0)


def test_voxels_without_any_doubt_are_ranked_in_their_own_class():
    """Their entropy is zero, with either sign."""
    sure = torch.tensor([1e3, -1e3]).repeat(5)
    logits = torch.stack([sure, -sure])[None, :, None]
    logits[..., 4:6] /= 1e3
    _, mask = EntropyFilteredPseudoLabeler(drop_fraction=0.2)(logits, logits)
    assert mask.flatten().tolist() == [True] * 4 + [False] * 2 + [True] * 4


def test_a_class_that_the_subsample_misses_is_kept():
    labeler = EntropyFilteredPseudoLabeler(drop_fraction=0.5)
    labeler.max_ranked_voxels = 16
    logits = torch.zeros(1, 2, 1, 48)
    logits[0, 0] = torch.linspace(1, 2, 48)
    logits[0, 0, 0, 1] = -1.0  # every third voxel is ranked, and this one is not
    _, mask = labeler(logits, logits)
    assert mask[0, 0, 0, 1] and not mask.all()


@pytest.mark.slow
def test_the_entropy_filter_takes_more_voxels_than_torch_quantile():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 260, 260, 260, generator=generator)
    with pytest.raises(RuntimeError):
        torch.quantile(logits[0, 0].flatten(), 0.8)
    _, mask = EntropyFilteredPseudoLabeler(drop_fraction=0.2)(logits, logits)
    assert mask.float().mean().item() == pytest.approx(0.8, abs=0.005)


def test_ramps_rise_from_near_zero_to_one_and_stay():
    for ramp, half in ((SigmoidRamp(0.4), np.exp(-1.25)), (LinearRamp(0.4), 0.5), (CosineRamp(0.4), 0.5)):
        weights = [ramp(t) for t in np.linspace(0, 1, 21)]
        assert weights == sorted(weights) and weights[0] < 0.01 and set(weights[8:]) == {1.0}
        assert ramp(0.2) == pytest.approx(half)
    assert SigmoidRamp(0.0)(0.0) == 1.0
    assert CosineRamp(0.4)(0.1) == pytest.approx((1 - 0.5**0.5) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DisagreementRectificationLoss(threshold=1.5), "1.5"),
        (lambda: DisagreementRectificationLoss(mode="xor"), "'xor'"),
        (lambda: UncertaintyWeightedCrossPseudoLoss(temperature=0.0), "0.0"),
        (lambda: UncertaintyWeightedCrossPseudoLoss(gamma=-1.0), "-1.0"),
        (lambda: EntropyFilteredPseudoLabeler(drop_fraction=1.0), "1.0"),
        (lambda: EntropyFilteredPseudoLabeler(combine="any"), "'any'"),
        (lambda: CrossConsistencyEnhancementLoss(direction="none"), "'none'"),
        (lambda: PrototypeContrastiveLoss(2, 4, form="triplet"), "'triplet'"),
        (lambda: PrototypeContrastiveLoss(1, 4), "got 1"),
        (lambda: PrototypeContrastiveLoss(2, 4, temperature=0.0), "0.0"),
        (lambda: PrototypeContrastiveLoss(2, 4, margin=2.5), "2.5"),
        (lambda: PrototypeContrastiveLoss(2, 4, anchor_fraction=1.5), "1.5"),
        (lambda: PrototypeContrastiveLoss(2, 4, min_anchors=0), "got 0"),
        (lambda: PrototypeContrastiveLoss(2, 4, min_anchors=65, max_anchors=64), "65 and 64"),
        (lambda: PrototypeBank(2, 0), "got 0"),
        (lambda: PrototypeBank(2, 4, momentum=-0.5), "-0.5"),
        (lambda: CrossConsistencyEnhancementLoss(cosine_weight=-0.1), "-0.1"),
        (lambda: CosineConsistencyLoss(reduction="median"), "median"),
        (lambda: SigmoidRamp(-0.1), "-0.1"),
        (lambda: SigmoidRamp()(-0.5), "-0.5"),
        (lambda: SigmoidRamp()(float("nan")), "nan"),
    ],
)
def test_a_wrong_option_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@EVERY_TERM
def test_wrong_shapes_are_named(term):
    a, b, labels, features, mask = draw((2, 3, 4, 4, 4))
    compute = TERMS[term][0]
    with pytest.raises(ValueError, match=r"4"):
        compute(a[..., :2], b, labels, features, mask)
    with pytest.raises(ValueError, match="C >= 2|at least 2"):
        compute(a[:, :1], b[:, :1], labels, features, mask)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(2, 3, 4, 4, dtype=torch.int64)}, "floating point logits, got torch.int64"),
        ({"labels": torch.zeros(2, 3, 4, 4)}, r"labels must be class maps.*\[2, 3, 4, 4\]"),
        ({"labels": torch.zeros(1, 1, 4, 4)}, r"labels must be class maps.*\[1, 1, 4, 4\]"),
        ({"labels": torch.zeros(2, 1, 4)}, r"labels must be class maps.*\[2, 1, 4\]"),
        ({"mask": torch.ones(2, 1, 4, 4)}, "mask must be a bool tensor.*float32"),
        ({"mask": torch.ones(2, 1, 4, 5, dtype=torch.bool)}, r"mask must be.*\[2, 1, 4, 5\]"),
    ],
)
def test_an_input_that_does_not_fit_is_named(change, message):
    a, _, labels, _, mask = draw((2, 3, 4, 4))
    with pytest.raises(ValueError, match=message):
        EntropyFilteredPseudoLoss()(**{"input": a, "labels": labels, "mask": mask, **change})


def test_features_that_do_not_fit_are_named():
    a, _, labels, features, mask = draw((2, 3, 4, 4))
    for loss, given, message in (
        (contrastive(3), features[:, :3], "feature_channels=4"),
        (contrastive(3), features[..., :3, :3], r"\(3, 3\) and \(4, 4\)"),
        (contrastive(3), features[:1], r"\[1, 4, 4, 4\]"),
        (contrastive(2), features, "num_classes=2"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(given, a, labels, mask)


def test_rectification_counts_no_voxel_outside_its_mask():
    a, b, labels, _, mask = draw((2, 3, 6, 5))
    loss = DisagreementRectificationLoss(threshold=0.0)
    each = DisagreementRectificationLoss(threshold=0.0, reduction="none")(a, b, labels)
    assert each[~mask].any()
    torch.testing.assert_close(loss(a, b, labels, mask), each[mask].sum() / (each[mask] > 0).sum())


def test_reductions_follow_monai():
    a, b, labels, _, mask = draw((2, 3, 4, 4))
    for loss, arguments in (
        (UncertaintyWeightedCrossPseudoLoss, (a, b, mask)),
        (CosineConsistencyLoss, (a, b, mask)),
        (EntropyFilteredPseudoLoss, (a, labels, mask)),
    ):
        each = loss(reduction="none")(*arguments)
        assert each.shape == (2, 1, 4, 4) and not each[~mask].any()
        torch.testing.assert_close(loss(reduction="sum")(*arguments), each.sum())
        torch.testing.assert_close(loss(reduction="mean")(*arguments), each.sum() / mask.sum())


def test_an_infinite_loss_outside_the_mask_does_not_count():
    logits = torch.tensor([[[[3e38, 0.0]], [[-3e38, 0.0]]]])
    mask = torch.tensor([[[[False, True]]]])
    value = EntropyFilteredPseudoLoss()(logits, torch.ones(1, 1, 1, 2, dtype=torch.int64), mask)
    assert value.item() == pytest.approx(np.log(2))
