# SPDX-License-Identifier: Apache-2.0
"""Two processes with half of a batch each have the gradients of one with the whole, to 1e-5."""

import subprocess
import sys

import pytest

CODE = """
import sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from monai.networks.nets import UNet
from scripts.losses import SigmoidRamp
from scripts.methods import Method
from scripts.methods.terms import Supervised
from scripts.networks import DualNetwork, WithFeatures

rank, world, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
unet = lambda: WithFeatures(UNet(3, 1, 2, channels=(4, 8), strides=(2,), norm="instance"), "model.0")
network = DualNetwork(unet(), unet())
loss = lambda logits, label: torch.nn.functional.cross_entropy(logits, label[:, 0].long())
method = Method({"supervised": Supervised(loss)}, ramp=SigmoidRamp())
image, label = torch.randn(4, 1, 8, 8, 8), torch.randint(0, 2, (4, 1, 8, 8, 8))
model = network
if world > 1:
    dist.init_process_group("gloo", rank=rank, world_size=world, init_method=file)
    model = DistributedDataParallel(network)
    image, label = image.chunk(world)[rank], label.chunk(world)[rank]
losses = method(model, {"image": image, "label": label}, None, 0.5)
sum(losses.values()).backward()
if rank == 0:
    torch.save({name: p.grad for name, p in network.named_parameters()}, sys.argv[4])
if world > 1:
    del model, losses  # they hold the group; gloo's threads that outlive the interpreter abort the process
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_the_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(bundle_root, tmp_path):
    import torch

    found = {}
    for world in (1, 2):
        to = tmp_path / f"{world}.pt"
        words = [str(world), f"file://{tmp_path}/store", str(to)]
        jobs = [
            subprocess.Popen([sys.executable, "-c", CODE, str(rank), *words], cwd=bundle_root, stderr=subprocess.PIPE)
            for rank in range(world)
        ]
        for job in jobs:
            _, errors = job.communicate(timeout=200)
            assert job.returncode == 0, errors.decode()[-2000:]
        found[world] = torch.load(to, weights_only=True)
    assert found[1].keys() == found[2].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[2][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert max(float(gradient.abs().max()) for gradient in found[1].values()) > 1e-3
