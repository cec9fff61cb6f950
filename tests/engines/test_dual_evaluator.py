# SPDX-License-Identifier: Apache-2.0
"""One pass scores both networks and exactly the ensemble that inference computes."""

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer

from scripts.engines import DualEvaluator
from scripts.networks import DualEnsemble, VNet


@pytest.fixture
def ensemble():
    torch.manual_seed(0)
    subnets = [VNet(out_channels=3, base_channels=4, norm="instance", dropout=0.5) for _ in range(2)]
    return DualEnsemble(*subnets)


def evaluate(engine_class, ensemble, **options):
    torch.manual_seed(1)
    item = {"image": MetaTensor(torch.randn(1, 20, 36, 32)), "label": MetaTensor(torch.zeros(1, 20, 36, 32))}
    evaluator = engine_class(
        device="cpu",
        val_data_loader=DataLoader(Dataset([item]), batch_size=1),
        network=ensemble,
        inferer=SlidingWindowInferer(roi_size=(16, 32, 32), overlap=0.5, mode="gaussian"),
        **options,
    )
    evaluator.run()
    (output,) = evaluator.state.output
    return output


def test_the_ensemble_is_scored_as_inference_computes_it(ensemble):
    both, plain = evaluate(DualEvaluator, ensemble), evaluate(SupervisedEvaluator, ensemble)
    torch.testing.assert_close(both["pred"], plain["pred"])
    assert both["pred"].shape == (3, 20, 36, 32)


def test_each_network_is_scored_by_itself(ensemble):
    output = evaluate(DualEvaluator, ensemble)
    inferer = SlidingWindowInferer(roi_size=(16, 32, 32), overlap=0.5, mode="gaussian")
    ensemble.eval()
    for key, subnet in (("pred_a", ensemble.a), ("pred_b", ensemble.b)):
        with torch.no_grad():
            expected = inferer(output["image"][None], subnet)[0]
        torch.testing.assert_close(output[key], expected)


def test_the_network_is_back_in_its_mode_and_took_no_gradient(ensemble):
    ensemble.train()
    output = evaluate(DualEvaluator, ensemble)
    assert not output["pred"].requires_grad
    assert isinstance(output["pred"], MetaTensor)  # resampling to the scan's grid needs the geometry


def test_the_ensemble_of_the_supervised_part_is_scored_on_the_same_scans(ensemble, tmp_path):
    now = evaluate(DualEvaluator, ensemble)["pred"]
    torch.save(ensemble.state_dict(), tmp_path / "then.pt")
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.mul_(1.1)
    output = evaluate(DualEvaluator, ensemble, supervised_weights=tmp_path / "then.pt")
    torch.testing.assert_close(output["pred_supervised"], now)
    assert not torch.allclose(output["pred"], now)


def test_a_run_without_a_supervised_part_has_no_such_prediction(ensemble, tmp_path):
    assert "pred_supervised" not in evaluate(DualEvaluator, ensemble, supervised_weights=tmp_path / "none.pt")
