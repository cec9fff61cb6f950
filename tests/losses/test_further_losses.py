# SPDX-License-Identifier: Apache-2.0
"""The losses of other papers: values, gradient routing, degenerate input, memories and labellers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from scripts.losses import (
    AffinityRectifiedLoss,
    ClassMemoryBank,
    ConflictFreeGradient,
    EnsembleVotingPseudoLabels,
    ERDALoss,
    GuidedContrastiveLoss,
    PairUncertaintyWeight,
    PrototypePseudoLabeler,
    RectifiedPseudoSupervisionLoss,
    TemporalAgreementWeight,
    VoxelContrastiveLoss,
)
from scripts.losses.contrastive.feature_maps import take

from . import loss_references as reference

SHAPES = [(2, c, *s) for c in (2, 3, 14) for s in ((8, 16), (8, 4, 4))]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=str)
CHANNELS = 5


def draw(shape, dtype=torch.float64, scale=2.0, seed=0):
    """Logits a, b and features f, g of two views, labels and a mask, all random."""
    generator = torch.Generator().manual_seed(seed)
    size = {"a": shape[1], "b": shape[1], "f": CHANNELS, "g": CHANNELS}
    inputs = {
        name: (torch.randn(shape[0], c, *shape[2:], generator=generator, dtype=torch.float64) * scale).to(dtype)
        for name, c in size.items()
    }
    one = (shape[0], 1, *shape[2:])
    inputs["y"] = torch.randint(0, shape[1], one, generator=generator)
    inputs["m"] = torch.rand(one, generator=generator) > 0.4
    return inputs


def everything():
    """Options with which the voxel contrastive loss leaves nothing to chance on small inputs."""
    return VoxelContrastiveLoss(num_negatives=10**6, num_anchors=10**6)


def guided(classes, threshold=0.5):
    """A guided loss that takes every confident voxel, with one feature per class in its memory."""
    loss = GuidedContrastiveLoss(
        classes, CHANNELS, threshold=threshold, anchors_per_class=10**6, negatives_per_class=1, bank_size=1
    ).double()
    generator = torch.Generator().manual_seed(7)
    memory = torch.nn.functional.normalize(torch.randn(classes, 1, CHANNELS, generator=generator).double(), dim=-1)
    loss.bank.push(memory, torch.ones(classes, 1, dtype=torch.bool))
    return loss


def erda_from_prototypes(a, f, g, y):
    labeler = PrototypePseudoLabeler(a.shape[1], CHANNELS)
    labeler.update(g, y)
    return ERDALoss()(a, labeler.logits(f))


# Each loss by one signature, and which of a, b, f, g it trains.
LOSSES = {
    "rectified": (lambda a, b, f, g, y, m: RectifiedPseudoSupervisionLoss()([a, 2 * a], b, m), {"a"}),
    "erda": (lambda a, b, f, g, y, m: ERDALoss()(a, b), {"a", "b"}),
    "erda_from_prototypes": (lambda a, b, f, g, y, m: erda_from_prototypes(a, f, g, y), {"a", "f"}),
    "voxel_contrastive": (lambda a, b, f, g, y, m: VoxelContrastiveLoss()(f, g, y, m), {"f", "g"}),
    "guided_contrastive": (lambda a, b, f, g, y, m: guided(a.shape[1])(f, g, a, m), {"f"}),
    "affinity": (lambda a, b, f, g, y, m: AffinityRectifiedLoss(stride=2)(a, f, b, g), {"a", "f"}),
}
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES)


@EVERY_LOSS
@EVERY_SHAPE
def test_a_loss_moves_what_it_trains_and_nothing_else(loss, shape):
    inputs = draw(shape)
    tensors = {name: inputs[name].requires_grad_() for name in "abfg"}
    compute, trained = LOSSES[loss]
    gradients = torch.autograd.grad(compute(**inputs), tensors.values(), allow_unused=True)
    for name, gradient in zip(tensors, gradients, strict=True):
        if name in trained:
            assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0, name
        else:
            assert gradient is None or not gradient.any(), name


@EVERY_SHAPE
def test_values_are_those_of_the_formulas(shape):
    t = draw(shape)
    n = {name: tensor.numpy() for name, tensor in t.items()}
    pairs = [
        (
            RectifiedPseudoSupervisionLoss(1.5, gamma=0.7)([t["a"], t["a"].flip(0)], t["b"], t["m"]),
            reference.rectified_pseudo_supervision([n["a"], n["a"][::-1]], n["b"], n["m"], 1.5, 0.7),
        ),
        (ERDALoss()(t["a"], t["b"]), reference.erda(n["a"], n["b"])),
        (ERDALoss(0.3, 1.0)(t["a"], t["b"], t["m"]), reference.erda(n["a"], n["b"], n["m"], 0.3, 1.0)),
        (everything()(t["f"], t["g"], t["y"], t["m"]), reference.voxel_contrastive(n["f"], n["g"], n["y"], n["m"])),
        (
            AffinityRectifiedLoss(stride=4)(t["a"], t["f"], t["b"], t["g"]),
            reference.affinity_rectified(n["a"], n["f"], n["b"], n["g"], stride=4),
        ),
    ]
    memory = guided(shape[1])
    stored = memory.bank.features[:, 0].numpy().copy()
    pairs.append(
        (memory(t["f"], t["g"], t["a"]), reference.guided_contrastive(n["f"], n["g"], n["a"], stored, threshold=0.5))
    )
    for value, expected in pairs:
        assert value.item() == pytest.approx(expected, rel=1e-6)


@EVERY_SHAPE
def test_labellers_and_weights_are_those_of_the_formulas(shape):
    t = draw(shape)
    n = {name: tensor.numpy() for name, tensor in t.items()}
    t["y"].view(-1)[: shape[1]] = torch.arange(shape[1])  # every class is there
    labeler = PrototypePseudoLabeler(shape[1], CHANNELS).double()
    labeler.update(t["g"], t["y"])
    expected = reference.prototype_pseudo_labels(n["f"], n["g"], t["y"].numpy(), shape[1])
    np.testing.assert_allclose(reference.voxels(labeler.logits(t["f"]).softmax(1).numpy()), expected, atol=1e-6)
    labels, mask = labeler(t["f"])
    np.testing.assert_array_equal(reference.voxels(labels.numpy())[:, 0], expected.argmax(1))
    assert mask.all()
    labeler.threshold = float(np.median(expected.max(1)))
    np.testing.assert_array_equal(
        reference.voxels(labeler(t["f"])[1].numpy())[:, 0], expected.max(1) > labeler.threshold
    )

    networks = [t["a"], t["b"], t["a"].flip(0), t["b"].flip(0)]
    for agreement in (1, 2, 3, 4):
        labels, mask = EnsembleVotingPseudoLabels(agreement)(networks)
        expected = reference.votes([z.numpy() for z in networks], agreement)
        np.testing.assert_array_equal(reference.voxels(mask.numpy())[:, 0], expected[1])
        np.testing.assert_array_equal(reference.voxels(labels.numpy())[:, 0][expected[1]], expected[0][expected[1]])

    one, other = (
        reference.certainty(n["a"], n["b"]),
        reference.certainty(networks[2].numpy(), networks[3].numpy()),
    )
    for combine, expected in (
        ("mean", (one + other) / 2),
        ("max", np.maximum(one, other)),
        ("min", np.minimum(one, other)),
    ):
        weight = PairUncertaintyWeight(combine)(*networks)
        np.testing.assert_allclose(reference.voxels(weight.numpy())[:, 0], expected, atol=1e-9)

    weight = TemporalAgreementWeight()(*networks[:3])
    expected = reference.temporal_agreement(*(z.numpy() for z in networks[:3]))
    np.testing.assert_allclose(reference.voxels(weight.numpy())[:, 0], expected, atol=1e-6)


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("case", ["random", "all", "none", "one class", "one image", "empty batch"])
def test_degenerate_input_gives_finite_losses_and_gradients(loss, dtype, scale, case):
    batch = {"one image": 1, "empty batch": 0}.get(case, 2)
    inputs = draw((batch, 3, 4, 4, 4), dtype, scale)
    if case in ("all", "none"):
        inputs["m"] = torch.full_like(inputs["m"], case == "all")
    if case == "one class":
        inputs["y"] = torch.zeros_like(inputs["y"])
    tensors = [inputs[name].requires_grad_() for name in "abfg"]
    value = LOSSES[loss][0](**inputs)
    assert torch.isfinite(value)
    for gradient in torch.autograd.grad(value, tensors, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@EVERY_LOSS
def test_autocast_changes_nothing(loss):
    inputs = draw((2, 3, 4, 4, 4), torch.float32)
    torch.manual_seed(0)
    plain = LOSSES[loss][0](**inputs)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(LOSSES[loss][0](**inputs), plain, rtol=0, atol=0)


def test_a_batch_of_one_image_or_one_class_has_nothing_to_contrast():
    inputs = draw((2, 3, 8, 8))
    one_class = torch.zeros_like(inputs["y"])
    assert VoxelContrastiveLoss()(inputs["f"], inputs["g"], one_class).item() == 0
    assert VoxelContrastiveLoss()(inputs["f"][:1], inputs["g"][:1], inputs["y"][:1]).item() == 0


def test_the_voxel_contrast_draws_no_more_anchors_and_negatives_than_it_may():
    """Random draws estimate the whole; with one negative the loss of a hard problem is far below that with all."""
    inputs = draw((2, 3, 24, 24))
    few = VoxelContrastiveLoss(num_negatives=1, num_anchors=64)(inputs["f"], inputs["g"], inputs["y"])
    many = VoxelContrastiveLoss(num_anchors=64)(inputs["f"], inputs["g"], inputs["y"])
    assert few < many < everything()(inputs["f"], inputs["g"], inputs["y"]) * 1.3


def test_negatives_come_from_random_voxels_of_the_whole_of_a_large_batch(monkeypatch):
    inputs = draw((2, 3, 96, 96), torch.float32)
    arguments = [inputs[name] for name in "fgy"]
    torch.manual_seed(0)
    some = VoxelContrastiveLoss(num_anchors=256)(*arguments).item()
    monkeypatch.setattr("scripts.losses.contrastive.voxel_contrastive.MAX_CANDIDATES", 10**6)
    assert some == pytest.approx(VoxelContrastiveLoss(num_anchors=256)(*arguments).item(), rel=0.1)


def test_anchors_of_the_voxel_contrast_are_drawn_anew():
    inputs = draw((2, 3, 8, 8))
    loss = VoxelContrastiveLoss(num_anchors=8)
    torch.manual_seed(0)
    assert loss(inputs["f"], inputs["g"], inputs["y"]) != loss(inputs["f"], inputs["g"], inputs["y"])


def test_unfilled_rows_of_a_memory_are_never_drawn():
    bank = ClassMemoryBank(2, 1, size=100)
    bank.push(torch.full((2, 3, 1), 5.0), torch.tensor([[True, True, True], [True, False, False]]))
    features, exist = bank.draw(1000)
    assert exist.all() and (features == 5).all()


def test_a_memory_overwrites_its_oldest_rows():
    bank = ClassMemoryBank(2, 1, size=3)
    for value in range(1, 6):
        bank.push(torch.full((2, 1, 1), float(value)), torch.tensor([[True], [False]]))
    assert sorted(bank.features[0, :, 0].tolist()) == [3, 4, 5]
    assert bank.filled.tolist() == [3, 0] and not bank.features[1].any()


def test_a_memory_fills_its_rows_in_order_and_draws_from_all_of_them():
    torch.manual_seed(0)
    bank = ClassMemoryBank(2, 1, size=8)
    rows = torch.arange(1.0, 6.0).view(1, 5, 1).expand(2, 5, 1)
    bank.push(rows[:, :2], torch.tensor([[True, True], [False, False]]))
    bank.push(rows[:, 2:], torch.tensor([[True, True, True], [False, False, False]]))
    assert bank.features[0, :, 0].tolist() == [1, 2, 3, 4, 5, 0, 0, 0]
    features, exist = bank.draw(5000)
    assert exist[0].all() and not exist[1].any()
    shares = torch.bincount(features[0, :, 0].long(), minlength=6)[1:] / 5000
    torch.testing.assert_close(shares, torch.full((5,), 0.2), atol=0.03, rtol=0)


def test_a_memory_is_written_in_training_mode_only_and_is_in_the_state():
    inputs = draw((2, 3, 8, 8))
    loss = GuidedContrastiveLoss(3, CHANNELS, threshold=0.0).eval()
    loss(inputs["f"], inputs["g"], inputs["a"])
    assert not loss.bank.filled.any()
    loss.train()(inputs["f"], inputs["g"], inputs["a"])
    assert loss.bank.filled.sum() == 2 * 64
    restored = GuidedContrastiveLoss(3, CHANNELS)
    restored.load_state_dict(loss.state_dict())
    assert torch.equal(restored.bank.features, loss.bank.features)


def test_an_empty_memory_holds_no_negatives_and_gets_the_positives_of_the_mask():
    inputs = draw((1, 3, 8, 8))
    loss = GuidedContrastiveLoss(3, CHANNELS, threshold=0.0).double()
    one = torch.zeros_like(inputs["m"])
    one[..., 3, 4] = True
    assert loss(inputs["f"], inputs["g"], inputs["a"], one).item() == 0
    assert loss.bank.filled.sum() == 1
    positive = inputs["g"][0, :, 3, 4]
    torch.testing.assert_close(loss.bank.features.sum((0, 1)), positive / positive.norm())


def test_a_class_that_is_not_in_the_memory_is_no_negative():
    inputs = draw((1, 3, 8, 8))
    loss = GuidedContrastiveLoss(3, CHANNELS, threshold=0.0, bank_size=4).double().eval()
    only_first = torch.tensor([[True], [False], [False]])
    loss.bank.push(torch.ones(3, 1, CHANNELS).double(), only_first)
    of_the_first = torch.zeros_like(inputs["a"])
    of_the_first[:, 0] = 5
    assert loss(inputs["f"], inputs["g"], of_the_first).item() == 0
    assert loss(inputs["f"], inputs["g"], of_the_first.flip(1)).item() > 0


def test_a_positive_at_the_confidence_counts():
    inputs = draw((1, 2, 8, 8))
    assert guided(2, threshold=1.0)(inputs["f"], inputs["g"], inputs["a"].sign() * 1e3).item() > 0


def test_weights_and_votes_have_no_gradient():
    a, b = (draw((1, 2, 4, 4))[name].requires_grad_() for name in "ab")
    assert not PairUncertaintyWeight()(a, b, b, a).requires_grad
    assert not TemporalAgreementWeight()(a, b, a).requires_grad


def test_defaults_are_those_of_the_papers():
    voxel, guide, labeler = VoxelContrastiveLoss(), GuidedContrastiveLoss(2, 1), PrototypePseudoLabeler(2, 1)
    assert (voxel.temperature, voxel.num_negatives, voxel.num_anchors) == (0.1, 400, 1024)
    assert (guide.temperature, guide.threshold, guide.bank.features.shape[1]) == (0.1, 0.75, 10_000)
    assert (labeler.bank.momentum, ERDALoss().weight, AffinityRectifiedLoss().stride) == (0.999, 0.1, 8)
    per_view = RectifiedPseudoSupervisionLoss().per_view
    assert (per_view.temperature, per_view.gamma) == (0.5, 1.0)


def test_the_views_of_rectified_supervision_are_averaged_voxel_by_voxel():
    t = draw((2, 3, 4, 4))
    arguments = ([t["a"], t["b"]], t["b"].flip(0), t["m"])
    each = RectifiedPseudoSupervisionLoss(reduction="none")(*arguments)
    assert each.shape == (2, 1, 4, 4) and not each[~t["m"]].any()
    torch.testing.assert_close(RectifiedPseudoSupervisionLoss(reduction="sum")(*arguments), each.sum())
    torch.testing.assert_close(RectifiedPseudoSupervisionLoss()(*arguments), each.sum() / t["m"].sum())


def test_a_doubtful_positive_does_not_count():
    inputs = draw((1, 2, 8, 8))
    assert guided(2, threshold=1.0)(inputs["f"], inputs["g"], inputs["a"] * 0).item() == 0


def test_prototypes_are_of_the_voxels_of_the_mask_only():
    labeler = PrototypePseudoLabeler(2, 1)
    mask = torch.tensor([[[[True, False, True, True]]]])
    labeler.update(torch.tensor([[[[1.0, 50.0, 3.0, 7.0]]]]), torch.tensor([[[[0, 0, 0, 1]]]]), mask)
    assert labeler.bank.prototypes.flatten().tolist() == [2.0, 7.0]


def test_full_agreement_never_weighs_more_than_one():
    a = draw((1, 5, 40, 40), torch.float32)["a"]
    weight = TemporalAgreementWeight()(a, a, a)
    assert weight.min() > 0.999 and weight.max() <= 1


def test_a_class_without_a_prototype_is_never_a_pseudo_label():
    inputs = draw((2, 3, 8, 8))
    labeler = PrototypePseudoLabeler(3, CHANNELS)
    labeler.update(inputs["f"], inputs["y"].clamp(max=1))
    logits = labeler.logits(inputs["g"], size=(16, 16))
    assert logits.shape == (2, 3, 16, 16) and logits.softmax(1)[:, 2].max() == 0


def test_affinity_spreads_labels_to_similar_features():
    """A cell that is told nothing takes the label of the cells that look like it."""
    features = torch.zeros(1, 2, 4, 8)
    features[:, 0, :, :4], features[:, 1, :, 4:] = 1, 1
    logits = torch.zeros(1, 2, 4, 8)
    logits[:, 0, :, :2], logits[:, 1, :, 6:] = 8, 8
    spread = AffinityRectifiedLoss(stride=2)._spread(logits, features)
    assert spread[0, :, 0].argmax(0).tolist() == [0, 0, 1, 1]


def test_sizes_that_the_stride_does_not_divide_are_taken():
    inputs = draw((1, 2, 8, 8))
    padded = {k: pad(inputs[k], (0, 3, 0, 1)) for k in "abfg"}
    value = AffinityRectifiedLoss(stride=4)(padded["a"], padded["f"], padded["b"], padded["g"])
    assert torch.isfinite(value) and value > 0


def gradients(net, *losses):
    return [
        torch.cat([g.flatten() for g in torch.autograd.grad(v, net.parameters(), retain_graph=True)]) for v in losses
    ]


def test_frozen_and_unused_parameters_are_left_alone():
    net = torch.nn.ModuleDict(
        {name: torch.nn.Linear(2, 1) for name in ("shared", "supervised_only", "unused", "frozen")}
    )
    net["frozen"].requires_grad_(False)
    h = net["frozen"](net["shared"](torch.ones(1, 2)).expand(1, 2))
    ConflictFreeGradient(net.parameters()).backward((h + net["supervised_only"](torch.ones(1, 2))).sum(), h.sum())
    assert net["frozen"].weight.grad is None and not net["unused"].weight.grad.any()
    torch.testing.assert_close(net["supervised_only"].weight.grad, torch.ones(1, 2))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_unsupervised_gradient_loses_only_what_opposes_the_supervised_one(sign):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3)
    x = torch.randn(8, 4)
    supervised = net(x).square().mean()
    unsupervised = sign * net(x[:4]).square().mean() + net(x).sum()
    if (torch.dot(*gradients(net, supervised, unsupervised)) < 0) != (sign < 0):
        unsupervised = unsupervised - net(x).sum()
    g_s, g_u = gradients(net, supervised, unsupervised)
    ConflictFreeGradient(net.parameters()).backward(supervised, unsupervised)
    got = torch.cat([p.grad.flatten() for p in net.parameters()]) - g_s
    if sign > 0:
        torch.testing.assert_close(got, g_u)
    else:
        assert torch.dot(got, g_s).abs() < 1e-5 < torch.dot(g_u, g_s).abs()
        torch.testing.assert_close(got, g_u - torch.dot(g_u, g_s) / torch.dot(g_s, g_s) * g_s)


def test_the_projection_does_not_depend_on_the_loss_scale_and_an_overflow_stays_visible():
    net = torch.nn.Linear(2, 2)
    x = torch.ones(1, 2)
    grads = []
    for scale in (1.0, 2.0**16):
        net.zero_grad()
        ConflictFreeGradient(net.parameters()).backward(scale * net(x).square().sum(), -scale * net(x).sum())
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]) / scale)
    torch.testing.assert_close(*grads)
    scaler = torch.amp.GradScaler("cpu")
    before = net.weight.clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    overflowing = scaler.scale(net(x).sum()) * float("inf")
    ConflictFreeGradient(net.parameters()).backward(overflowing, scaler.scale(net(x).sum()))
    scaler.step(optimizer)
    assert torch.equal(net.weight, before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RectifiedPseudoSupervisionLoss(gamma=-1.0), "-1.0"),
        (lambda: RectifiedPseudoSupervisionLoss()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)), "Tensor"),
        (lambda: RectifiedPseudoSupervisionLoss()([], torch.zeros(1, 2, 3, 3)), "list"),
        (lambda: VoxelContrastiveLoss(temperature=0.0), "0.0"),
        (lambda: VoxelContrastiveLoss(num_negatives=0), "got 0"),
        (lambda: VoxelContrastiveLoss()(*torch.zeros(2, 1, 2, 3, 3), torch.zeros(1, 1, 4, 4)), r"\(3, 3\)"),
        (lambda: ERDALoss(weight=-0.1), "-0.1"),
        (lambda: ERDALoss()(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3)), r"\[1, 2, 3\]"),
        (lambda: PrototypePseudoLabeler(2, 4, momentum=1.5), "1.5"),
        (lambda: PrototypePseudoLabeler(2, 4)(torch.zeros(1, 3, 5, 5)), r"\[1, 3, 5, 5\]"),
        (lambda: GuidedContrastiveLoss(2, 4, threshold=2.0), "2.0"),
        (lambda: GuidedContrastiveLoss(3, 4)(*torch.zeros(2, 1, 4, 8, 8), torch.zeros(1, 2, 8, 8)), "num_classes=3"),
        (lambda: ClassMemoryBank(2, 4, size=0), "and 0"),
        (lambda: AffinityRectifiedLoss(stride=0), "got 0"),
        (lambda: EnsembleVotingPseudoLabels(3)([torch.zeros(1, 2, 4, 4)] * 2), "min_agreement=3"),
        (lambda: PairUncertaintyWeight("median"), "'median'"),
        (lambda: TemporalAgreementWeight()(*[torch.zeros(1, 2, 4)] * 2, torch.zeros(1, 2, 5)), r"\[1, 2, 5\]"),
        (lambda: ConflictFreeGradient([]), "none"),
        (lambda: ConflictFreeGradient([torch.nn.Parameter(torch.ones(1))]).backward(torch.ones(2), torch.ones(1)), "2"),
    ],
)
def test_a_wrong_option_or_shape_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_gradient_that_reads_voxels_again_and_again_is_the_same_every_time():
    """With several threads, too: a training that is repeated or resumed is the same bit for bit."""
    features = torch.randn(2, 32, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    index = torch.randint(0, 64, (6000,), generator=torch.Generator().manual_seed(1))
    weights = torch.randn(6000, 32, generator=torch.Generator().manual_seed(2))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(20):
            read = features.clone().requires_grad_()
            (take(read, index) * weights).sum().backward()
            gradients.append(read.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    flat = features.movedim(1, -1).reshape(-1, 32)
    assert torch.equal(take(features, index.view(3, -1)), flat[index.view(3, -1)])
    expected = torch.zeros(flat.shape, dtype=torch.float64).index_add_(0, index, weights.double())
    found = gradients[0].movedim(1, -1).reshape(-1, 32)
    assert torch.allclose(found.double(), expected, atol=1e-4)
