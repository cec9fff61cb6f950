# SPDX-License-Identifier: Apache-2.0
"""The trainer minimises the sum of the named losses, seeds every epoch, and says what it cannot do."""

import logging

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, TensorBoardStatsHandler
from monai.transforms import Compose, CopyItemsd

from scripts.engines import named_losses
from scripts.methods import Method

from .conftest import make_trainer


def test_output_holds_every_loss_and_their_sum():
    trainer = make_trainer(max_epochs=1)
    trainer.run()
    output = trainer.state.output
    names = {
        "supervised_a",
        "supervised_b",
        "cross_pseudo",
        "entropy_filtered",
        "cosine",
        "contrastive_a",
        "contrastive_b",
    }
    assert names <= set(output)
    assert output["loss"].item() == pytest.approx(sum(output[name].item() for name in names), rel=1e-5)
    assert not any(value.requires_grad for value in output.values())
    assert {"loss", "kept_fraction", *names} == set(named_losses(output))


def test_one_step_moves_both_networks_and_fires_the_events_of_monai_in_order():
    fired = []
    trainer = make_trainer(max_epochs=1)
    order = ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED"]
    for name in order:
        trainer.add_event_handler(IterationEvents[name], lambda engine, name=name: fired.append(name))
    before = {name: value.clone() for name, value in trainer.network.named_parameters()}
    trainer.run()
    assert fired == order * 3
    unmoved = [name for name, value in trainer.network.named_parameters() if torch.equal(value, before[name])]
    assert not unmoved


def test_the_optimizer_minimises_the_sum():
    """With two losses whose gradients cancel, plain SGD must not move; a trainer that dropped one would."""

    class Cancelling(Method):
        def forward(self, network, labeled, unlabeled, progress):
            mean = network(labeled["image"]).a.logits.mean()
            return {"up": mean, "down": -mean}

    trainer = make_trainer(max_epochs=1)
    trainer.method = Cancelling()
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), lr=1.0)
    before = [p.clone() for p in trainer.network.parameters()]
    trainer.run()
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)


def test_a_weak_view_of_the_unlabelled_stream_reaches_the_method():
    seen = []

    class Views(Method):
        def forward(self, network, labeled, unlabeled, progress):
            seen.append((set(labeled), set(unlabeled), type(unlabeled["weak"])))
            assert torch.equal(unlabeled["weak"], unlabeled["image"])
            return {"mean": network(unlabeled["weak"]).a.logits.mean()}

    trainer = make_trainer(max_epochs=1)
    loader = trainer.data_loader.loaders["unlabeled"]
    loader.dataset.transform = Compose([loader.dataset.transform, CopyItemsd("image", names="weak")])
    trainer.method = Views()
    trainer.run()
    assert seen == [({"image", "label"}, {"image", "weak"}, torch.Tensor)] * 3


def test_progress_is_the_fraction_of_steps_done():
    seen = []
    trainer = make_trainer(max_epochs=2)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.progress))
    trainer.run()
    assert seen == pytest.approx([i / 6 for i in range(6)])


def test_gradients_are_clipped_to_the_global_norm():
    norms = []
    trainer = make_trainer(max_epochs=1, max_grad_norm=1e-3)

    def record(engine):
        norms.append(torch.cat([p.grad.flatten() for p in engine.network.parameters()]).norm().item())

    trainer.add_event_handler(IterationEvents.MODEL_COMPLETED, record)
    trainer.run()
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)


def test_same_seed_same_weights_other_seed_other_weights():
    def weights(seed):
        trainer = make_trainer(max_epochs=1)
        trainer.state.seed = trainer.data_loader.seed = seed
        trainer.run()
        return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_without_unlabelled_scans_the_run_is_supervised_and_says_so(caplog):
    trainer = make_trainer(max_epochs=1, unlabeled=False)
    trainer.logger.propagate = True
    with caplog.at_level(logging.WARNING):
        trainer.run()
    assert "No unlabelled scans" in caplog.text
    assert set(trainer.state.output) == {"loss", "supervised_a", "supervised_b", "label_class_share"}


@pytest.mark.parametrize("amp, advice", [(False, "learning_rate"), (True, "amp to False")])
def test_a_loss_that_is_not_finite_ends_the_run_with_advice(amp, advice):
    trainer = make_trainer(max_epochs=1, amp=amp)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(RuntimeError, match=f"not finite.*{advice}"):
        trainer.run()


def test_monai_handlers_show_every_loss(tmp_path):
    handlers = [
        StatsHandler(output_transform=lambda output: output["loss"].item()),
        TensorBoardStatsHandler(log_dir=str(tmp_path), output_transform=named_losses),
    ]
    make_trainer(max_epochs=1, handlers=lambda **parts: handlers).run()
    (events,) = tmp_path.glob("events*")
    assert b"entropy_filtered" in events.read_bytes()


def test_a_labelled_loader_must_be_a_dataloader():
    with pytest.raises(ValueError, match="train_data_loader must be a PyTorch DataLoader but is list"):
        trainer = make_trainer()
        type(trainer)("cpu", 1, [], trainer.network, trainer.optimizer, trainer.method)
