# SPDX-License-Identifier: Apache-2.0
"""A method turns a network and two batches into named losses; each term moves what it should and nothing else."""

import pytest
import torch
from monai.losses import DiceCELoss

from scripts.losses import (
    CrossConsistencyEnhancementLoss,
    DisagreementRectificationLoss,
    PrototypeContrastiveLoss,
    SigmoidRamp,
)
from scripts.methods import CopyPaste, CrossPseudoSupervisionMethod, DualNetworkMethod, SupervisedMethod
from scripts.networks import DualNetwork, VNet

CLASSES = 3


@pytest.fixture
def network():
    torch.manual_seed(0)
    subnets = [VNet(out_channels=CLASSES, base_channels=4, norm="batch", dropout=0.0) for _ in range(2)]
    return DualNetwork(*subnets)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    labeled = {"image": torch.randn(2, 1, 16, 16, 16), "label": torch.randint(0, CLASSES, (2, 1, 16, 16, 16))}
    return labeled, {"image": torch.randn(1, 1, 16, 16, 16)}


def supervised_loss():
    return DiceCELoss(to_onehot_y=True, softmax=True, batch=True, squared_pred=True)


def full_method(**changes):
    arguments = {
        "supervised": supervised_loss(),
        "rectification": DisagreementRectificationLoss(threshold=0.0),
        "consistency": CrossConsistencyEnhancementLoss(),
        "contrastive": PrototypeContrastiveLoss(num_classes=CLASSES, feature_channels=4),
        "ramp": SigmoidRamp(length=0.4),
    }
    return DualNetworkMethod(**{**arguments, **changes})


def gradient_size(loss, subnet):
    parameters = list(subnet.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return sum(g.abs().sum().item() for g in gradients if g is not None)


def test_the_default_method_names_every_term_of_the_paper(network, batches):
    losses = full_method()(network, *batches, progress=1.0)
    assert set(losses) == {
        *("supervised_a", "supervised_b", "rectification_a", "rectification_b"),
        *("cross_pseudo", "entropy_filtered", "cosine", "contrastive_a", "contrastive_b"),
    }
    assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())


@pytest.mark.parametrize("term", ["supervised", "rectification", "contrastive"])
def test_a_term_of_one_network_does_not_move_the_other(network, batches, term):
    method = full_method()
    method.train()
    method(network, *batches, progress=1.0)  # fills the prototype banks
    losses = method(network, *batches, progress=1.0)
    for name, own, other in (("a", network.a, network.b), ("b", network.b, network.a)):
        assert gradient_size(losses[f"{term}_{name}"], own) > 0
        assert gradient_size(losses[f"{term}_{name}"], other) == 0


@pytest.mark.parametrize("term", ["cross_pseudo", "entropy_filtered", "cosine"])
def test_consistency_terms_move_both_networks(network, batches, term):
    losses = full_method()(network, *batches, progress=1.0)
    assert gradient_size(losses[term], network.a) > 0
    assert gradient_size(losses[term], network.b) > 0


def test_the_ramp_scales_the_unlabelled_terms_alone(network, batches):
    network.eval()
    method = full_method().eval()  # a bank in eval mode keeps its prototypes, so that both calls see the same ones
    start, end = (method(network, *batches, progress=progress) for progress in (0.0, 1.0))
    factor = SigmoidRamp(length=0.4)(0.0)
    for name, loss in end.items():
        expected = loss if name.startswith(("supervised", "rectification")) else factor * loss
        torch.testing.assert_close(start[name], expected)


def test_dropping_fewer_voxels_as_training_goes_on(network, batches):
    method = full_method(decay_drop_fraction=True)
    kept = []
    for progress in (0.0, 0.5, 1.0):
        method(network, *batches, progress=progress)
        kept.append(method.statistics["kept_fraction"].item())
    assert kept[0] < kept[1] < kept[2] == 1.0


def test_statistics_are_shares_of_voxels(network, batches):
    method = full_method()
    method(network, *batches, progress=0.5)
    label = batches[0]["label"]
    expected = torch.bincount(label.flatten(), minlength=CLASSES) / label.numel()
    torch.testing.assert_close(method.statistics["label_class_share"], expected)
    assert method.statistics["pseudo_class_share"].sum().item() == pytest.approx(1.0)
    assert 0.5 < method.statistics["kept_fraction"].item() < 1.0


@pytest.mark.parametrize("make", [full_method, lambda: CrossPseudoSupervisionMethod(supervised_loss())])
def test_without_unlabelled_scans_only_labelled_terms_remain(network, batches, make):
    losses = make()(network, batches[0], None, progress=0.5)
    assert losses and all(name.startswith(("supervised", "rectification")) for name in losses)


def copy_paste_method(**changes):
    teacher = DualNetwork(*(VNet(out_channels=CLASSES, base_channels=4) for _ in range(2)))
    return full_method(copy_paste=CopyPaste(), teacher=teacher, **changes)


@pytest.mark.parametrize(
    "make, images",
    [
        (lambda: SupervisedMethod(supervised_loss()), 2),
        (lambda: copy_paste_method(consistency=None, contrastive=None), 2 + 1),
        (copy_paste_method, 2 + 1 + 1),
    ],
    ids=["labelled", "labelled, mixed", "labelled, mixed, unlabelled"],
)
def test_the_network_is_shown_only_the_images_that_a_term_needs(network, batches, make, images):
    seen = []

    def shown(image):
        seen.append(len(image))
        return network(image)

    losses = make()(shown, *batches, progress=0.5)
    assert seen == [images]
    assert ("copy_paste_a" in losses) == (images > 2) and ("cosine" in losses) == (images > 3)


def test_cps_is_the_cross_entropy_with_the_other_networks_argmax(network, batches):
    network.eval()
    labeled, unlabeled = batches
    losses = CrossPseudoSupervisionMethod(supervised_loss(), cross_weight=1.5)(
        network, labeled, unlabeled, progress=0.0
    )
    output = network(torch.cat([labeled["image"], unlabeled["image"]]))
    log_a = output.a.logits.double().log_softmax(1)
    target = output.b.logits.argmax(1, keepdim=True)
    torch.testing.assert_close(
        losses["cross_pseudo_a"].double(), -1.5 * log_a.gather(1, target).mean(), rtol=1e-5, atol=0
    )
    assert gradient_size(losses["cross_pseudo_a"], network.b) == 0


def test_terms_can_be_left_out(network, batches):
    whole = full_method()(network, *batches, progress=0.5)
    left = full_method(without=["entropy_filtered", "cosine"])(network, *batches, progress=0.5)
    assert set(whole) - set(left) == {"entropy_filtered", "cosine"}
    with pytest.raises(ValueError, match="kosinus"):
        full_method(without=["kosinus"])


def test_the_contrastive_term_needs_the_entropy_filter():
    with pytest.raises(ValueError, match="consistency"):
        full_method(consistency=None)


def test_state_of_the_method_is_in_its_checkpoint(network, batches):
    method = full_method()
    method.train()
    method(network, *batches, progress=1.0)
    restored = full_method()
    restored.load_state_dict(method.state_dict())
    assert any("prototypes" in name for name in method.state_dict())
    for name, value in method.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name
