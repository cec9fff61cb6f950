# SPDX-License-Identifier: Apache-2.0
"""A method turns a network and two batches into named losses; each term moves what it should and nothing else."""

import pytest
import torch

from scripts.losses import SigmoidRamp
from scripts.methods import AverageTeacher, EntropyFilter, MeanOfTeachers, Method, Prediction, Step
from scripts.methods.terms import Contrastive, CopyPaste, Cosine, EntropyFiltered, Supervised
from scripts.networks import DualNetwork, DualOutput, SubnetOutput, VNet

from .make import CLASSES, make_method, supervised_loss


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


def gradient_size(loss, subnet):
    parameters = list(subnet.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return sum(g.abs().sum().item() for g in gradients if g is not None)


def test_the_method_paper_names_every_term_of_the_paper(network, batches):
    losses = make_method("paper")(network, *batches, progress=1.0)
    assert set(losses) == {
        *("supervised_a", "supervised_b", "rectification_a", "rectification_b"),
        *("cross_pseudo", "entropy_filtered", "cosine", "contrastive_a", "contrastive_b"),
    }
    assert all(torch.isfinite(loss) and loss.ndim == 0 for loss in losses.values())


@pytest.mark.parametrize("term", ["supervised", "rectification", "contrastive"])
def test_a_term_of_one_network_does_not_move_the_other(network, batches, term):
    method = make_method("paper")
    method.train()
    method(network, *batches, progress=1.0)  # fills the prototype banks
    losses = method(network, *batches, progress=1.0)
    for name, own, other in (("a", network.a, network.b), ("b", network.b, network.a)):
        assert gradient_size(losses[f"{term}_{name}"], own) > 0
        assert gradient_size(losses[f"{term}_{name}"], other) == 0


@pytest.mark.parametrize("term", ["cross_pseudo", "entropy_filtered", "cosine"])
def test_consistency_terms_move_both_networks(network, batches, term):
    losses = make_method("paper")(network, *batches, progress=1.0)
    assert gradient_size(losses[term], network.a) > 0
    assert gradient_size(losses[term], network.b) > 0


def test_the_ramp_scales_the_unlabelled_terms_alone(network, batches):
    network.eval()
    method = make_method(
        "paper"
    ).eval()  # a bank in eval mode keeps its prototypes, so that both calls see the same ones
    start, end = (method(network, *batches, progress=progress) for progress in (0.0, 1.0))
    factor = SigmoidRamp(length=0.4)(0.0)
    for name, loss in end.items():
        expected = loss if name.startswith(("supervised", "rectification")) else factor * loss
        torch.testing.assert_close(start[name], expected)


def test_dropping_fewer_voxels_as_training_goes_on(network, batches):
    method = make_method("paper", labeler__decay=True)
    kept = []
    for progress in (0.0, 0.5, 1.0):
        method(network, *batches, progress=progress)
        kept.append(method.statistics["kept_fraction"].item())
    assert kept[0] < kept[1] < kept[2] == 1.0


def test_statistics_are_shares_of_voxels(network, batches):
    method = make_method("paper")
    method(network, *batches, progress=0.5)
    label = batches[0]["label"]
    expected = torch.bincount(label.flatten(), minlength=CLASSES) / label.numel()
    torch.testing.assert_close(method.statistics["label_class_share"], expected)
    assert method.statistics["pseudo_class_share"].sum().item() == pytest.approx(1.0)
    assert 0.5 < method.statistics["kept_fraction"].item() < 1.0


@pytest.mark.parametrize("name", ["paper", "cps", "mcf", "mean_teacher_copy_paste"])
def test_without_unlabelled_scans_only_labelled_terms_remain(network, batches, name):
    losses = make_method(name)(network, batches[0], None, progress=0.5)
    assert losses and all(name.startswith(("supervised", "rectification", "labeled")) for name in losses)


def teacher():
    return DualNetwork(*(VNet(out_channels=CLASSES, base_channels=4) for _ in range(2)))


@pytest.mark.parametrize(
    ("name", "images"),
    [("supervised", 2), ("mean_teacher_copy_paste", 2 + 1), ("dual_network_copy_paste", 2 + 1 + 1), ("bcp", 2)],
)
def test_the_network_is_shown_only_the_images_that_a_term_needs(network, batches, name, images):
    seen = []

    def shown(image):
        seen.append(len(image))
        return network(image)

    labeled, unlabeled = batches
    unlabeled = {"image": unlabeled["image"].expand(2, -1, -1, -1, -1)} if name == "bcp" else unlabeled
    losses = make_method(name, teacher())(shown, labeled, unlabeled, progress=0.5)
    assert seen == [images]
    assert ("copy_paste_a" in losses) == (name != "supervised") and ("cosine" in losses) == (images > 3)


def test_cps_is_the_cross_entropy_with_the_other_networks_argmax(network, batches):
    network.eval()
    labeled, unlabeled = batches
    losses = make_method("cps", ramp=None)(network, labeled, unlabeled, progress=0.0)
    output = network(torch.cat([labeled["image"], unlabeled["image"]]))
    log_a = output.a.logits.double().log_softmax(1)
    target = output.b.logits.argmax(1, keepdim=True)
    torch.testing.assert_close(
        losses["cross_pseudo_a"].double(), -1.5 * log_a.gather(1, target).mean(), rtol=1e-5, atol=0
    )
    assert gradient_size(losses["cross_pseudo_a"], network.b) == 0


def test_terms_can_be_left_out(network, batches):
    whole = make_method("paper")(network, *batches, progress=0.5)
    left = make_method("paper", terms__entropy_filtered=None, terms__cosine=None)(network, *batches, progress=0.5)
    assert set(whole) - set(left) == {"entropy_filtered", "cosine"}
    with pytest.raises(ValueError, match="at least one term"):
        Method({"supervised": None})


@pytest.mark.parametrize("term", [EntropyFiltered(), Contrastive(CLASSES), CopyPaste()], ids=lambda t: type(t).__name__)
def test_a_term_that_needs_pseudo_labels_asks_for_a_labeler(term):
    with pytest.raises(ValueError, match="The term needy needs pseudo-labels: give the method a labeler"):
        Method({"needy": term})
    Method({"needy": term}, labeler=EntropyFilter())


def test_nothing_is_computed_that_no_term_asks_for(network, batches):
    def never(*arguments):
        raise AssertionError("nobody needs it")

    method = Method({"supervised": Supervised(supervised_loss()), "cosine": Cosine()}, labeler=never, teacher=never)
    assert set(method(network, *batches, progress=0.5)) == {"supervised_a", "supervised_b", "cosine"}


def test_each_thing_is_computed_once(network, batches):
    calls = {"teacher": 0, "labeler": 0}
    average = AverageTeacher(teacher())
    label = MeanOfTeachers()

    def count_teacher(step):
        calls["teacher"] += 1
        return average(step)

    def count_labeler(step, teachers):
        calls["labeler"] += 1
        return label(step, teachers)

    terms = {"filtered": EntropyFiltered(), "pasted": CopyPaste(), "contrastive": Contrastive(CLASSES)}
    Method(terms, labeler=count_labeler, teacher=count_teacher)(network, *batches, progress=0.5)
    assert calls == {"teacher": 1, "labeler": 1}


def test_each_network_has_prototypes_as_wide_as_its_features(batches):
    network = DualNetwork(VNet(out_channels=CLASSES, base_channels=4), VNet(out_channels=CLASSES, base_channels=8))
    method = make_method("paper")
    method(network, *batches, progress=1.0)
    losses = method.terms["contrastive"].losses
    assert [losses[name].bank.prototypes.shape[1] for name in "ab"] == [4, 8]


def test_an_impossible_option_of_a_term_is_refused_at_once():
    with pytest.raises(ValueError, match="temperature"):
        Contrastive(CLASSES, temperature=0)


def test_state_of_the_method_is_in_its_checkpoint(network, batches):
    method = make_method("paper")
    method.train()
    method(network, *batches, progress=1.0)
    restored = make_method("paper")
    restored.load_state_dict(method.state_dict())
    assert any("prototypes" in name for name in method.state_dict())
    for name, value in method.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name


def test_the_warm_up_looks_at_labelled_images_alone_and_the_rest_starts_from_its_end(network, batches):
    network.eval()
    method = make_method("mean_teacher_copy_paste", teacher(), warm_up=0.4)
    labeled_only = {f"{term}_{name}" for term in ("supervised", "rectification", "labeled_copy_paste") for name in "ab"}
    assert set(method(network, *batches, progress=0.39)) == labeled_only
    assert "kept_fraction" not in method.statistics
    ramps = []
    for progress, in_its_part in ((0.4, 0.0), (0.7, 0.5), (1.0, 1.0)):
        torch.manual_seed(0)
        losses = method(network, *batches, progress=progress)
        torch.manual_seed(0)
        plain = make_method("mean_teacher_copy_paste", method.teacher.average)(network, *batches, progress=in_its_part)
        assert losses.keys() == plain.keys()
        torch.testing.assert_close(losses["copy_paste_a"], plain["copy_paste_a"])
        ramps.append(losses["copy_paste_a"].item())
    assert ramps[0] < ramps[1]
    assert method.ramp_length == pytest.approx(0.4 + 0.6 * 0.1)
    with pytest.raises(ValueError, match="warm_up must be a fraction"):
        Method({"supervised": Supervised(supervised_loss())}, warm_up=1.0)


def test_cross_teaching_takes_the_average_of_the_other_network(network, batches):
    class Apart(torch.nn.Module):
        """Averages that say one thing each: a class 1, b class 2."""

        def forward(self, images):
            logits = torch.zeros(len(images), CLASSES, *images.shape[2:])
            features = torch.zeros(len(images), 1, *images.shape[2:])
            a, b = logits.clone(), logits.clone()
            a[:, 1], b[:, 2] = 9.0, 9.0
            return DualOutput(SubnetOutput(a, features), SubnetOutput(b, features))

    labeled, unlabeled = batches
    step = Step(make_method("cross_teaching", Apart()), network, labeled, unlabeled, progress=0.5)
    assert bool((step.teachers.a.logits.argmax(1) == 2).all()) and bool((step.teachers.b.logits.argmax(1) == 1).all())


def test_a_pseudo_label_counts_the_less_the_more_student_and_teacher_diverge(network, batches):
    teacher_logits, student_logits = torch.randn(2, 2, CLASSES, 4, 4, 4)
    weight = Prediction(student_logits).agreement(Prediction(teacher_logits))
    t, p = teacher_logits.double().softmax(1), student_logits.double().softmax(1)
    divergence = (t * (t.log() - p.log())).sum(1, keepdim=True)
    torch.testing.assert_close(weight.double(), torch.exp(-divergence), rtol=1e-5, atol=1e-6)
    assert not Prediction(student_logits.requires_grad_()).agreement(Prediction(teacher_logits)).requires_grad
