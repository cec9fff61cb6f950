# SPDX-License-Identifier: Apache-2.0
"""The losses once more, in plain NumPy and float64, written from their formulas and without looking at speed."""

import numpy as np


def log_softmax(z, axis=1):
    shifted = z - z.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def softmax(z, axis=1):
    return np.exp(log_softmax(z, axis))


def voxels(maps):
    """[B, C, *spatial] -> [B * voxels, C]."""
    return np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1])


def entropy(logits):
    p = voxels(softmax(logits))
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(p > 0, p * np.log(p), 0.0).sum(1) / np.log(p.shape[1])


def masked_mean(values, mask=None):
    if mask is None:
        return values.mean()
    return values[voxels(mask)[:, 0]].sum() / max(mask.sum(), 1)


def disagreement_rectification(input, teacher, labels, threshold=0.6, mode="disagreement"):
    total, count = 0.0, 0
    for p, r, y in zip(voxels(softmax(input)), voxels(softmax(teacher)), voxels(labels)[:, 0], strict=True):
        if mode == "disagreement":
            counted = p.argmax() != r.argmax() and (p.max() >= threshold or r.max() >= threshold)
        else:
            counted = (p.argmax() > 0 and p.max() >= threshold) != (r.argmax() > 0 and r.max() >= threshold)
        if counted:
            total += ((p - np.eye(len(p))[int(y)]) ** 2).sum() / 2
            count += 1
    return total / max(count, 1)


def uncertainty_weighted_cross_pseudo(input, teacher, mask=None, temperature=0.5, gamma=1.0, hard=False):
    log_p, log_t = voxels(log_softmax(input)), voxels(log_softmax(teacher))
    q = np.eye(log_t.shape[1])[log_t.argmax(1)] if hard else voxels(softmax(teacher / temperature))
    divergence = (np.exp(log_t) * (log_t - log_p)).sum(1)
    return masked_mean(np.exp(-divergence) * -(q * log_p).sum(1) + gamma * divergence, mask)


def entropy_filter(a, b, drop_fraction=0.2, combine="either", per_class=True):
    p_a, p_b, h_a, h_b = voxels(softmax(a)), voxels(softmax(b)), entropy(a), entropy(b)
    labels = (np.exp(-h_a)[:, None] * p_a + np.exp(-h_b)[:, None] * p_b).argmax(1)
    case = np.repeat(np.arange(len(a)), labels.size // len(a))
    keep = []
    for h in (h_a, h_b):
        kept = np.ones(labels.size, dtype=bool)
        for i in range(len(a)):
            for c in range(a.shape[1]) if per_class else [None]:
                members = np.flatnonzero((case == i) & (np.ones_like(kept) if c is None else labels == c))
                dropped = int(np.floor(drop_fraction * len(members) + 1e-9))
                if dropped:
                    kept[members[np.argsort(h[members])[len(members) - dropped :]]] = False
        keep.append(kept)
    mask = keep[0] & keep[1] if combine == "either" else keep[0] | keep[1]
    shape = (a.shape[0], 1, *a.shape[2:])
    return labels.reshape(shape), mask.reshape(shape)


def entropy_filtered_pseudo(input, labels, mask=None):
    log_p = voxels(log_softmax(input))
    return masked_mean(-log_p[np.arange(len(log_p)), voxels(labels)[:, 0].astype(int)], mask)


def cosine_consistency(input, other, mask=None):
    p, q = voxels(softmax(input)), voxels(softmax(other))
    return masked_mean(1 - (p * q).sum(1) / (np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)), mask)


def cross_consistency_enhancement(input, other, cosine_weight=0.1, **filter_options):
    labels, mask = entropy_filter(input, other, **filter_options)
    cross = [uncertainty_weighted_cross_pseudo(input, other), uncertainty_weighted_cross_pseudo(other, input)]
    filtered = entropy_filtered_pseudo(input, labels, mask) + entropy_filtered_pseudo(other, labels, mask)
    return np.mean(cross) + filtered + cosine_weight * cosine_consistency(input, other)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def prototype_contrastive(features, input, labels, reliable, form="infonce", temperature=0.1, margin=2**0.5):
    """First training step of a new instance that takes every unreliable voxel as an anchor."""
    f, y, reliable = voxels(features), voxels(labels)[:, 0], voxels(reliable)[:, 0]
    own, num_classes = voxels(input).argmax(1), input.shape[1]
    prototypes = {c: f[reliable & (y == c)].mean(0) for c in range(num_classes) if (reliable & (y == c)).any()}
    per_class = []
    for c in prototypes:
        anchors = f[~reliable & (own == c)]
        if not len(anchors):
            continue
        if form == "infonce":
            similarity = np.stack([unit(anchors) @ unit(prototypes[k]) for k in prototypes], 1) / temperature
            per_class.append(-log_softmax(similarity)[:, list(prototypes).index(c)].mean())
        else:
            per_class.append(np.linalg.norm(unit(anchors) - unit(prototypes[c]), axis=1).mean())
    if len(prototypes) < 2 or not per_class:
        return 0.0
    loss = np.mean(per_class)
    if form == "distance":
        pairs = [(c, k) for c in prototypes for k in prototypes if c != k]
        gaps = [np.linalg.norm(unit(prototypes[c]) - unit(prototypes[k])) for c, k in pairs]
        loss += np.maximum(0, margin - np.array(gaps)).mean()
    return loss


def rectified_pseudo_supervision(views, teacher, mask=None, temperature=0.5, gamma=1.0):
    return np.mean([uncertainty_weighted_cross_pseudo(view, teacher, mask, temperature, gamma) for view in views])


def erda(input, other, mask=None, entropy_weight=1.0, weight=0.1):
    p, q = voxels(softmax(other)), voxels(softmax(input))
    return weight * masked_mean(entropy_weight * -(p * np.log(p)).sum(1) + (p * np.log(p / q)).sum(1), mask)


def prototype_pseudo_labels(features, labelled_features, labels, num_classes, temperature=0.1):
    """Probabilities [voxels, C] when the first and only update was on labelled features of every class."""
    f, y = voxels(labelled_features), voxels(labels)[:, 0]
    prototypes = unit(np.stack([f[y == c].mean(0) for c in range(num_classes)]))
    return softmax(unit(voxels(features)) @ prototypes.T / temperature)


def voxel_contrastive(features, other_features, labels, mask, temperature=0.1):
    """With all allowed voxels as anchors, and all voxels of another class in another image as negatives."""
    f, g = unit(voxels(features)), unit(voxels(other_features))
    y, allowed = voxels(labels)[:, 0], voxels(mask)[:, 0]
    image = np.repeat(np.arange(len(features)), len(y) // len(features))
    total = []
    for view, mirror in ((f, g), (g, f)):
        for i in np.flatnonzero(allowed):
            negatives = mirror[allowed & (y != y[i]) & (image != image[i])]
            logits = np.concatenate([[view[i] @ mirror[i]], negatives @ view[i]])[None] / temperature
            total.append(-log_softmax(logits)[0, 0])
    return np.mean(total)


def guided_contrastive(features, teacher_features, teacher, bank, temperature=0.1, threshold=0.75):
    """With all confident voxels as anchors; ``bank`` holds one feature per class, [C, E]."""
    f, g, p = unit(voxels(features)), unit(voxels(teacher_features)), voxels(softmax(teacher))
    losses = []
    for i in np.flatnonzero(p.max(1) >= threshold):
        negatives = np.delete(bank, p[i].argmax(), axis=0)
        losses.append(-log_softmax(np.concatenate([[f[i] @ g[i]], negatives @ f[i]])[None] / temperature)[0, 0])
    return np.sum(losses) / max(len(losses), 1)


def cells(maps, stride):
    """Means over cells, [B, cells, C], of maps whose sides are multiples of ``stride``."""
    for axis in range(2, maps.ndim):
        shape = (*maps.shape[:axis], maps.shape[axis] // stride, stride, *maps.shape[axis + 1 :])
        maps = maps.reshape(shape).mean(axis + 1)
    return np.moveaxis(maps.reshape(*maps.shape[:2], -1), 1, 2)


def affinity_rectified(input, features, teacher, teacher_features, stride=8, temperature=0.1):
    def spread(logits, h):
        directions = unit(cells(h, stride))
        affinity = softmax(directions @ directions.transpose(0, 2, 1) / temperature, axis=2)
        return affinity @ cells(softmax(logits), stride)

    difference = spread(input, features) - spread(teacher, teacher_features)
    return (difference**2).sum(2).mean() / 2


def votes(logits, min_agreement):
    winners = np.stack([voxels(z).argmax(1) for z in logits])
    labels, mask = [], []
    for column in winners.T:
        counts = np.bincount(column)
        labels.append(counts.argmax())
        mask.append(counts.max() >= min_agreement and (counts == counts.max()).sum() == 1)
    return np.array(labels), np.array(mask)


def certainty(input, teacher):
    t, p = voxels(softmax(teacher)), voxels(softmax(input))
    return np.exp(-(t * np.log(t / p)).sum(1))


def temporal_agreement(*logits):
    p = np.stack([voxels(softmax(z)) for z in logits])
    mixture = p.mean(0)
    divergence = np.mean([(k * np.log(k / mixture)).sum(1) for k in p], axis=0)  # the mean KL to the mixture
    return 1 - divergence / np.log(min(3, p.shape[2]))
