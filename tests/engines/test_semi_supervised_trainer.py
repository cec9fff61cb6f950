# SPDX-License-Identifier: Apache-2.0
"""The trainer minimises the sum of the named losses, seeds every epoch, and says what it cannot do."""

import logging

import pytest
import torch
from ignite.engine import Events
from monai.engines.utils import IterationEvents
from monai.handlers import StatsHandler, TensorBoardStatsHandler
from monai.transforms import Compose, CopyItemsd, Transform

from scripts.data import DataError
from scripts.engines import named_losses
from scripts.methods import Method
from scripts.methods.terms import Term
from scripts.networks import MovingAverage

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

    class Cancelling(Term):
        reads = frozenset({"labeled"})

        def forward(self, step):
            mean = step.on_labeled.a.logits.mean()
            return {"up": mean, "down": -mean}

    trainer = make_trainer(max_epochs=1)
    trainer.method = Method({"cancelling": Cancelling()})
    trainer.optimizer = torch.optim.SGD(trainer.network.parameters(), lr=1.0)
    before = [p.clone() for p in trainer.network.parameters()]
    trainer.run()
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)


def test_a_weak_view_of_the_unlabelled_stream_reaches_the_method():
    seen = []

    class Views(Term):
        reads = frozenset({"unlabeled"})

        def forward(self, step):
            seen.append((set(step.labeled), set(step.unlabeled), type(step.unlabeled["weak"])))
            assert torch.equal(step.unlabeled["weak"], step.unlabeled["image"])
            return step.on_unlabeled.a.logits.mean()

    trainer = make_trainer(max_epochs=1)
    loader = trainer.data_loader.loaders["unlabeled"]
    loader.dataset.transform = Compose([loader.dataset.transform, CopyItemsd("image", names="weak")])
    trainer.method = Method({"views": Views()})
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


@pytest.mark.parametrize(("amp", "advice"), [(False, "learning_rate"), (True, "precision to float32")])
def test_a_loss_that_is_not_finite_ends_the_run_with_advice(amp, advice):
    trainer = make_trainer(max_epochs=1, amp=amp)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=f"not finite in 3 steps in a row.*{advice}"):
        trainer.run()


def spoil(trainer, steps):
    """Make the loss of these steps not finite."""
    forward = trainer.method.forward

    def spoilt(*arguments):
        losses = forward(*arguments)
        return {n: loss * (float("nan") if trainer.state.iteration in steps else 1) for n, loss in losses.items()}

    trainer.method.forward = spoilt


def test_a_step_that_is_not_finite_is_skipped_without_a_trace():
    """Weights, running statistics, prototypes and average are those of before it."""
    trainer = make_trainer(max_epochs=1)
    trainer.average = MovingAverage(trainer.network, decay=0.5)
    spoil(trainer, {2})
    seen = []

    def note(engine):
        state = [*engine.network.state_dict().values(), *engine.method.state_dict().values()]
        seen.append([value.clone() for value in [*state, *engine.average.state_dict().values()]])

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    first, second, third = seen
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(second, third, strict=True))
    assert trainer.skipped_in_a_row == 0


def test_several_steps_in_a_row_that_are_not_finite_end_the_run():
    trainer = make_trainer(max_epochs=2, max_skipped=2)
    spoil(trainer, {1, 3, 4})
    with pytest.raises(DataError, match="in 2 steps in a row, the last one step 4 in epoch 2"):
        trainer.run()


def test_images_that_are_not_finite_are_named():
    trainer = make_trainer(max_epochs=1)
    for item in trainer.data_loader.loaders["unlabeled"].dataset.data:
        item["image"][...] = float("inf")
    with pytest.raises(DataError, match="the images of the unlabeled batch are not finite"):
        trainer.run()


def test_an_epoch_begun_within_draws_the_batches_that_are_left():
    def images(done):
        trainer = make_trainer(max_epochs=1)
        trainer.data_loader.set_epoch(1, done)
        return [batch["labeled"]["image"] for batch in trainer.data_loader]

    whole, rest = images(0), images(2)
    assert len(whole) == 3 and len(rest) == 1
    assert torch.equal(rest[0], whole[2])


def test_a_scan_that_cannot_be_read_in_mid_run_ends_the_run(tmp_path):
    """MONAI's thread would take it for the end of the data, and the training would go on without the scan."""
    trainer = make_trainer(max_epochs=1)

    class Gone(Transform):
        def __call__(self, data):
            raise FileNotFoundError(2, "No such file or directory", "scan.nii.gz")

    trainer.data_loader.loaders["labeled"].dataset.transform = Gone()
    with pytest.raises(FileNotFoundError, match="scan.nii.gz"):
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
