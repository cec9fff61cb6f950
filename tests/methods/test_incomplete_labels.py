# SPDX-License-Identifier: Apache-2.0
"""Labels with ignored voxels and missing classes, in every method that reads labels."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from scripts.annotation import CLASSES as KEY
from scripts.annotation import IGNORED
from scripts.errors import DataError
from scripts.losses import PartialDiceCELoss
from scripts.methods import Method, Step, step
from scripts.methods.terms import MixedTeaching, Supervised
from scripts.networks import DualNetwork, DualOutput, SubnetOutput, VNet

from .make import CLASSES, make_method

SIZE = (16, 16, 16)
READ_LABELS = ("paper", "mcf", "ssl_contrastive", "semsim", "erda", "erda_modality_agnostic", "bcp", "sdcl", "sparse")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return DualNetwork(*(VNet(out_channels=CLASSES, base_channels=4, norm="group", dropout=0.0) for _ in range(2)))


@pytest.fixture
def batches():
    """The first image has all classes, the second class 2 alone; three quarters of each are not drawn."""
    torch.manual_seed(1)
    label = torch.randint(0, CLASSES, (2, 1, *SIZE)).float()
    label[1] = label[1].where(label[1] == 2, 0)
    label[:, :, 4:] = IGNORED
    classes = torch.tensor([[True, True, True], [True, False, True]])
    unlabeled = {"image": torch.randn(2, 1, *SIZE)}
    return {"image": torch.randn(2, 1, *SIZE), "label": label, KEY: classes}, unlabeled


def losses_of(method, network, batches, progress):
    torch.manual_seed(2)
    method.train()
    return {name: loss.item() for name, loss in method(network, *batches, progress).items()}


@pytest.mark.parametrize("progress", [0.05, 0.9])
@pytest.mark.parametrize("name", READ_LABELS)
def test_what_was_not_drawn_has_no_say(name, progress, network, batches, monkeypatch):
    """Whatever class stands where nobody has drawn one: every loss is the same."""
    found = []
    for placeholder in (0, 1, 2):
        monkeypatch.setattr(step, "PLACEHOLDER", placeholder)
        method = fitting(name, network)
        found.append([losses_of(method, network, batches, progress) for _ in range(2)])  # banks empty, banks filled
    assert found[0] == found[1] == found[2]
    assert all(np.isfinite(list(losses.values())).all() for losses in found[0])


def fitting(name, network):
    torch.manual_seed(3)  # of the layers that a method has
    wide = {"terms__alignment__feature_channels": 4} if name.startswith("erda") else {}
    return make_method(name, network, **wide)


@pytest.mark.parametrize("name", [None, "paper", "bcp", "sparse"])
def test_an_item_with_all_classes_is_as_one_without_the_key(name, network, batches):
    """Complete labels that are marked as such: the losses of labels without a mark, but for the last digits."""
    labeled, unlabeled = batches
    complete = labeled | {"label": torch.randint(0, CLASSES, (2, 1, *SIZE)), KEY: torch.ones(2, CLASSES).bool()}
    marked = losses_of(make_method(name, network), network, (complete, unlabeled), 0.9)
    plain = {key: value for key, value in complete.items() if key != KEY}
    expected = losses_of(make_method(name, network), network, (plain, unlabeled), 0.9)
    assert {key: marked[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert marked.keys() - expected.keys() <= {"mixed_teaching_a", "mixed_teaching_b"}


def test_certain_voxels_are_drawn_and_of_one_class(batches):
    labeled, _ = batches
    found = Step(Method({"supervised": Supervised(PartialDiceCELoss())}), None, labeled, None, 0.0)
    label = labeled["label"].numpy()
    assert np.array_equal(found.drawn.numpy(), label != IGNORED)
    assert np.array_equal(found.certain[0].numpy(), label[0] >= 0)
    assert np.array_equal(found.certain[1].numpy(), label[1] == 2)


def test_the_log_has_shares_of_the_known_voxels(network, batches):
    method = make_method("supervised")
    method(network, batches[0], None, 0.5)
    label = batches[0]["label"]
    known = torch.cat([label[0][label[0] >= 0], label[1][label[1] == 2]]).long()
    expected = torch.bincount(known, minlength=CLASSES) / len(known)
    torch.testing.assert_close(method.statistics["label_class_share"], expected)


def test_a_loss_that_cannot_leave_out_voxels_is_refused(network, batches):
    method = Method({"supervised": Supervised(DiceCELoss(to_onehot_y=True, softmax=True))})
    with pytest.raises(DataError, match="DiceCELoss cannot leave them out. Use scripts.losses.PartialDiceCELoss"):
        method(network, batches[0], None, 0.5)


def test_mixed_teaching_keeps_labels_and_mixes_the_rest(batches):
    """With certain networks of different opinions; against NumPy."""
    labeled, _ = batches
    logits = [20 * torch.nn.functional.one_hot(torch.randint(0, 3, (2, *SIZE)), 3).movedim(-1, 1) for _ in range(2)]
    outputs = DualOutput(*(SubnetOutput(one.float().requires_grad_(), one.float()) for one in logits))
    term = MixedTeaching()
    seen = Step(Method({"mixed": term}), lambda image: outputs, labeled, None, 0.0)
    torch.manual_seed(5)
    share = torch.rand(()).item()
    torch.manual_seed(5)
    found = term._labels(seen).numpy()
    p = [one.double().softmax(1).numpy() for one in logits]
    mixed = share * p[0] + (1 - share) * p[1]
    label = labeled["label"].numpy()
    expected = mixed.argmax(1)[:, None]
    limited = np.where(mixed[:, :1] >= mixed[:, 1:2], 0, 1)  # image 1: drawn, and not of class 2
    expected[1] = np.where(label[1] == 0, limited[1], expected[1])
    known = (label == 2) | ((label >= 0) & (np.arange(2).reshape(2, 1, 1, 1, 1) == 0))
    assert np.array_equal(found, np.where(known, label, expected))
    losses = term(seen)
    assert all(loss.requires_grad and loss.item() > 0 for loss in losses)
    complete = {key: value for key, value in labeled.items() if key != KEY}
    assert not term.applies(Step(Method({"mixed": term}), None, complete, None, 0.0))
