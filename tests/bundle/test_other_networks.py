# SPDX-License-Identifier: Apache-2.0
"""Any two MONAI networks train by a config alone, each with prototypes as wide as its own features."""

import json

import pytest
from methods.golden import SMALL, write_phantom
from monai.bundle import ConfigParser

OTHERS = {
    "network_def": {
        "_target_": "scripts.networks.DualNetwork",
        "a": {
            "_target_": "scripts.networks.WithFeatures",
            "network": {
                "_target_": "SegResNet",
                "in_channels": "@in_channels",
                "out_channels": "@num_classes",
                "init_filters": 8,
            },
            "layer": "up_layers.2",
        },
        "b": {
            "_target_": "scripts.networks.WithFeatures",
            "network": {
                "_target_": "UNet",
                "spatial_dims": 3,
                "in_channels": "@in_channels",
                "out_channels": "@num_classes",
                "channels": [4, 8, 16],
                "strides": [2, 2],
            },
            "layer": "model.0",
        },
    }
}


@pytest.mark.parametrize("method", ["paper", "default"])
def test_segresnet_and_unet_train_by_a_config(bundle_root, tmp_path, method):
    write_phantom(tmp_path)
    (tmp_path / "networks.json").write_text(json.dumps(OTHERS))
    parser = ConfigParser()
    methods = {"paper": [bundle_root / "configs" / "methods" / "paper.json"], "default": []}[method]
    parser.read_config([str(f) for f in (bundle_root / "configs" / "train.json", *methods, tmp_path / "networks.json")])
    own = {"dataset_dir": str(tmp_path), "runs_dir": str(tmp_path / "runs"), "max_epochs": 2, "epoch_length": 1}
    parser.config.update({**SMALL, **own, "bundle_root": str(bundle_root)})
    trainer = parser.get_parsed_content("train#trainer")
    trainer.run()
    assert trainer.state.iteration == 2
    if method == "paper":
        losses = trainer.method.terms["contrastive"].losses
        widths = [losses[name].bank.prototypes.shape[1] for name in "ab"]
        assert widths == [8, 4]
