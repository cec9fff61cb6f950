# SPDX-License-Identifier: Apache-2.0
"""TensorRT is MONAI's: what it is asked for, and that without a GPU nothing changes."""

import os

import monai
import pytest
import torch
from monai.bundle import ConfigParser

from scripts.errors import DataError


def read(bundle_root, *names, **settings):
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / f"{name}.json") for name in names])
    parser.update({"bundle_root": str(bundle_root), "device": "cpu", **settings})
    return parser


def test_without_a_gpu_the_networks_stay_as_they_are(bundle_root):
    x = torch.rand(1, 1, 64, 64, 32, generator=torch.Generator().manual_seed(0))
    outputs = []
    for names in (("inference",), ("inference", "inference_trt")):
        torch.manual_seed(0)
        network = read(bundle_root, *names).get_parsed_content("network").eval()
        with torch.no_grad():
            outputs.append(network(x))
    assert torch.equal(*outputs)


def test_each_network_gets_an_engine_of_its_weights(bundle_root, monkeypatch):
    asked = {}

    def trt_compile(model, base_path, args, submodule):
        asked.update(model=model, base_path=base_path, args=args, submodule=submodule)
        return model

    monkeypatch.setattr(monai.networks, "trt_compile", trt_compile)
    parser = read(bundle_root, "inference", "inference_trt", trt_precision="bf16")
    assert parser.get_parsed_content("network") is asked["model"]
    weights = bundle_root / "models" / "model.pt"
    assert asked["base_path"] == str(bundle_root / "models" / "model_bf16") and asked["submodule"] == ["a", "b"]
    assert asked["args"] == {
        "precision": "bf16",
        "dynamic_batchsize": [1, 2, 2],
        "timestamp": int(os.path.getmtime(weights)),
    }
    assert parser.get_parsed_content("autocast") is None
    for name in asked["submodule"]:  # which MONAI finds by these names, and whose output is one tensor
        assert isinstance(getattr(asked["model"], name)(torch.zeros(1, 1, 32, 32, 32)), torch.Tensor)


def test_engines_are_for_one_model(bundle_root):
    parser = read(bundle_root, "inference", "inference_trt", further_weights=["b.pt"])
    with pytest.raises(RuntimeError) as raised:
        parser.get_parsed_content("network")
    assert isinstance(raised.value.__cause__, DataError) and "Leave out further_weights" in str(raised.value.__cause__)
