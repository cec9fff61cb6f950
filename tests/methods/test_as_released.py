# SPDX-License-Identifier: Apache-2.0
"""The preset for comparison has the value and the gradient of the formula it is documented with."""

import numpy as np
import pytest
import torch

from scripts.networks import DualOutput, SubnetOutput

from .make import make_method

LABELED, UNLABELED = 2, 1


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def formula(z_a, z_b, label, tau=0.6, alpha=0.5):
    """The documented sum in NumPy; ``label`` [B,1,*S] covers the first items of the logits [B+U,C,*S]."""
    classes = z_a.shape[1]
    onehot = np.concatenate([label == c for c in range(classes)], 1).astype(float)
    axes = (0, *range(2, z_a.ndim))
    total = 0.0
    confident_foreground = []
    for z in (z_a, z_b):
        p = softmax(z[: len(label)])
        overlap, size = (p * onehot).sum(axes), (p**2).sum(axes) + (onehot**2).sum(axes)
        total += np.mean(1 - (2 * overlap + 1e-5) / (size + 1e-5))
        total += -np.mean((onehot * np.log(p)).sum(1))
        confident_foreground.append((p.argmax(1) > 0) & (p.max(1) >= tau))
    counted = confident_foreground[0] ^ confident_foreground[1]
    for z in (z_a, z_b):
        error = ((softmax(z[: len(label)]) - onehot) ** 2).sum(1) / 2
        total += alpha * (error * counted).sum() / max(counted.sum(), 1)
    p_a, p_b = softmax(z_a), softmax(z_b)
    d = (p_b * (np.log(p_b) - np.log(p_a))).sum(1)
    cross_entropy = -np.log(np.take_along_axis(p_a, p_b.argmax(1)[:, None], 1))[:, 0]
    cosine = (p_a * p_b).sum(1) / np.sqrt((p_a**2).sum(1) * (p_b**2).sum(1))
    return total + np.mean(np.exp(-d) * cross_entropy) + np.mean(d) + np.mean(1 - cosine)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("spatial", [(3, 2), (2, 2, 2)])
def test_value_and_gradient_are_those_of_the_formula(classes, spatial):
    rng = np.random.default_rng(classes)
    logits = rng.normal(scale=2.0, size=(2, LABELED + UNLABELED, classes, *spatial))
    label = rng.integers(0, classes, size=(LABELED, 1, *spatial))
    z = torch.tensor(logits, requires_grad=True)

    def network(images):
        return DualOutput(SubnetOutput(z[0], z[0]), SubnetOutput(z[1], z[1]))

    method = make_method("as_released")
    labeled = {"image": torch.zeros(LABELED, 1, *spatial), "label": torch.tensor(label)}
    losses = method(network, labeled, {"image": torch.zeros(UNLABELED, 1, *spatial)}, progress=0.0)
    total = sum(losses.values())
    assert total.item() == pytest.approx(formula(*logits, label), rel=1e-6)

    (gradient,) = torch.autograd.grad(total, z)
    numeric, step = np.zeros_like(logits), 1e-6
    for index in np.ndindex(*logits.shape):
        shifted = [logits.copy(), logits.copy()]
        shifted[0][index] += step
        shifted[1][index] -= step
        numeric[index] = (formula(*shifted[0], label) - formula(*shifted[1], label)) / (2 * step)
    np.testing.assert_allclose(gradient.numpy(), numeric, atol=1e-6)
