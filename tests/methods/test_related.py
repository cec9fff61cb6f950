# SPDX-License-Identifier: Apache-2.0
"""Every related system, as its JSON says: who learns from what, and that its state is all that a restart needs."""

import copy
import json

import pytest
import torch
from monai.bundle import ConfigParser

from scripts.networks import DualNetwork, MovingAverage, VNet

from .make import CLASSES, CONFIGS

SIZE = (16, 16, 16)
CHANNELS = 4
# What of each method learns besides its supervised term: losses by name, of a, of b, or of both networks
LEARNS = {
    "rcps": {"rectified", "contrast"},
    "ssl_contrastive": {"rectification", "entropy_filtered", "contrastive"},
    "dual_networks": {"cross_pseudo", "cosine", "contrastive"},
    "semsim": {"weak_to_strong", "within", "across"},
    "erda": {"alignment"},
    "erda_modality_agnostic": {"alignment", "queries"},
    "guided_contrast": {"contrast"},
    "pair_uncertainty": {"pseudo", "pairs"},
    "temporal_agreement": {"agreement"},
    "fixmatch": {"weak_to_strong"},
    "unimatch": {"weak_to_strong", "feature_perturbed"},
    "crossmatch": {"strong", "few_dropped", "most_dropped", "strong_few_dropped", "strong_most_dropped"},
    "ad_mt": {"alternate"},
    "sdcl": {"copy_paste", "discrepancy"},
    "voting": {"voted"},
    "contrastive_pretraining": {"contrast"},
    "masked_pretraining": {"masked"},
}
OF_BOTH = {"cross_pseudo", "pseudo", "cosine", "entropy_filtered", "voted"}
WITH_LAYERS = {
    "rcps",
    "erda",
    "erda_modality_agnostic",
    "guided_contrast",
    "contrastive_pretraining",
    "masked_pretraining",
}


class Trained:
    """A method with small networks that are sure of what they say, and what the trainer keeps beside it."""

    def __init__(self, name):
        torch.manual_seed(0)
        subnets = [VNet(out_channels=CLASSES, base_channels=CHANNELS, norm="group", dropout=0.1) for _ in range(2)]
        self.network = DualNetwork(*subnets)
        with torch.no_grad():
            for subnet in subnets:
                subnet.classifier.weight *= 60
        self.average = MovingAverage(self.network, decay=0.5)
        layers = [CONFIGS / "train.json", CONFIGS / "methods" / f"{name}.json"]
        merged = {key: value for layer in layers for key, value in json.loads(layer.read_text()).items()}
        wanted = ("method", "method#gradient", "ramp_length", "supervised_loss", "in_channels")
        own = {
            "num_classes": CLASSES,
            "base_channels": CHANNELS,
            "device": "cpu",
            "average": self.average,
            "regions": {},
        }
        parser = ConfigParser({key: merged[key] for key in wanted if key in merged and "#" not in key})
        parser.config.update({**own, "network_def": self.network, "network": self.network})
        for key in wanted:
            if "#" in key and key in merged:
                parser[key] = merged[key]
        parser["method#warm_up"] = 0.0
        self.method = parser.get_parsed_content("method")
        parameters = [*self.network.parameters(), *(p for p in self.method.parameters() if p.requires_grad)]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-3)

    @property
    def parts(self):
        return {"network": self.network, "average": self.average, "method": self.method, "optimizer": self.optimizer}

    def losses(self, batches, progress=1.0):
        self.network.train()
        self.method.train()
        return self.method(self.network, *batches, progress)

    def step(self, batches, seed):
        torch.manual_seed(seed)
        losses = self.losses(batches, 0.9)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self.average.update_parameters(self.network)
        return {name: loss.item() for name, loss in losses.items()}


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(1)
    image, other = (torch.randn(2, 1, *SIZE, generator=generator) for _ in range(2))
    weak = other + 0.1 * torch.randn(other.shape, generator=generator)
    label = torch.randint(0, CLASSES, (2, 1, *SIZE), generator=generator)
    return {"image": image, "label": label}, {"image": other, "weak": weak}


def gradients(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [g is not None and bool((g != 0).any()) for g in found]


def test_every_related_system_is_tested_here():
    from .golden import METHODS

    older = {"as_released", "bcp", "cps", "dual_network_copy_paste", "mcf", "mean_teacher", "mean_teacher_copy_paste"}
    shipped = {path.stem for path in METHODS if path.parent.name == "methods"}
    older |= {"control", "cross_teaching", "paper", "protected", "sparse", "supervised", "uamt"}
    assert LEARNS.keys() | {"conflict_free"} >= shipped - older


@pytest.mark.parametrize("name", LEARNS)
def test_each_term_moves_the_networks_that_its_paper_says(name, batches):
    run = Trained(name)
    run.losses(batches)  # fills memories
    losses = run.losses(batches)
    expected = {f"{term}_{network}" for term in LEARNS[name] - OF_BOTH for network in "ab"} | (LEARNS[name] & OF_BOTH)
    supervised = set() if name.endswith("pretraining") or name == "sdcl" else {"supervised_a", "supervised_b"}
    assert losses.keys() == expected | supervised
    for term in expected:
        moves = [any(gradients(losses[term], subnet)) for subnet in (run.network.a, run.network.b)]
        assert moves == ([True, True] if term in OF_BOTH else [term.endswith("_a"), term.endswith("_b")]), term


@pytest.mark.parametrize("name", sorted(WITH_LAYERS))
def test_layers_of_a_method_are_trained_and_averages_are_not(name, batches):
    run = Trained(name)
    run.losses(batches)  # fills memories
    total = torch.stack(list(run.losses(batches).values())).sum()
    assert all(gradients(total, run.method)) and len(list(run.method.parameters())) >= 8


def test_other_methods_have_nothing_to_train_of_their_own():
    for name in LEARNS.keys() - WITH_LAYERS:
        assert not [p for p in Trained(name).method.parameters() if p.requires_grad], name


@pytest.mark.parametrize("name", [*LEARNS, "conflict_free"])
def test_a_restored_method_goes_on_exactly_as_the_original(name, batches):
    run = Trained(name)
    for seed in (1, 2):
        run.step(batches, seed)
    saved = {part: copy.deepcopy(thing.state_dict()) for part, thing in run.parts.items()}
    expected = [run.step(batches, seed) for seed in (3, 4)]
    again = Trained(name)
    for part, thing in again.parts.items():
        thing.load_state_dict(saved[part])
    assert [again.step(batches, seed) for seed in (3, 4)] == expected
