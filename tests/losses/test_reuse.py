# SPDX-License-Identifier: Apache-2.0
"""What other projects rely on: compiling, scripting, exact gradients, MetaTensors, several ranks, a light import."""

import io
import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from scripts import losses
from scripts.losses import (
    AdaptiveConfidencePseudoLabeler,
    AffinityRectifiedLoss,
    ConfidencePseudoLabeler,
    ConflictFreeGradient,
    CosineConsistencyLoss,
    CrossConsistencyEnhancementLoss,
    DisagreementLearningLoss,
    DisagreementRectificationLoss,
    DistributionAlignment,
    EnsembleVotingPseudoLabels,
    EntropyFilteredPseudoLabeler,
    EntropyFilteredPseudoLoss,
    ERDALoss,
    GuidedContrastiveLoss,
    PairUncertaintyWeight,
    PartialDiceCELoss,
    PartialDiceLoss,
    PrototypeContrastiveLoss,
    PrototypePseudoLabeler,
    RectifiedPseudoSupervisionLoss,
    SoftMatchWeight,
    TemporalAgreementWeight,
    UncertaintyWeightedCrossPseudoLoss,
    VoxelContrastiveLoss,
)

CHANNELS = 4
LARGEST = 6.5e4  # what float16 can hold


def draw(shape=(2, 3, 4, 4, 4), dtype=torch.float32, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = {"a": shape[1], "b": shape[1], "f": CHANNELS, "g": CHANNELS}
    inputs = {
        name: (torch.randn(shape[0], c, *shape[2:], generator=generator, dtype=torch.float64) * scale)
        .clamp(-LARGEST, LARGEST)
        .to(dtype)
        for name, c in channels.items()
    }
    one = (shape[0], 1, *shape[2:])
    return {
        **inputs,
        "y": torch.randint(0, shape[1], one, generator=generator),
        "m": torch.rand(one, generator=generator) > 0.4,
    }


# What is called in a training step: how to make it for C classes, and the names of its inputs.
MODULES = {
    "rectification": (lambda c: DisagreementRectificationLoss(threshold=0.3), "aby"),
    "cross_pseudo": (lambda c: UncertaintyWeightedCrossPseudoLoss(), "abm"),
    "cross_pseudo_hard": (lambda c: UncertaintyWeightedCrossPseudoLoss(hard=True, detach_weight=False), "ab"),
    "labeler": (lambda c: EntropyFilteredPseudoLabeler(), "ab"),
    "entropy_filtered": (lambda c: EntropyFilteredPseudoLoss(), "aym"),
    "cosine": (lambda c: CosineConsistencyLoss(), "abm"),
    "consistency": (lambda c: CrossConsistencyEnhancementLoss(), "ab"),
    "consistency_b": (lambda c: CrossConsistencyEnhancementLoss(direction="b_from_a", combine="both"), "abym"),
    "contrastive": (lambda c: PrototypeContrastiveLoss(c, CHANNELS), "faym"),
    "contrastive_distance": (lambda c: PrototypeContrastiveLoss(c, CHANNELS, form="distance"), "faym"),
    "rectified": (lambda c: Rectified(), "abm"),
    "erda": (lambda c: ERDALoss(), "abm"),
    "prototype_labeler": (lambda c: PrototypePseudoLabeler(c, CHANNELS), "f"),
    "prototype_logits": (lambda c: PrototypeLogits(c, CHANNELS), "fgym"),
    "voxel_contrastive": (lambda c: VoxelContrastiveLoss(), "fgym"),
    "guided_contrastive": (lambda c: GuidedContrastiveLoss(c, CHANNELS, bank_size=50), "fgam"),
    "affinity": (lambda c: AffinityRectifiedLoss(stride=2), "afbg"),
    "voting": (lambda c: Voting(), "ab"),
    "disagreement": (lambda c: DisagreementLearningLoss(), "abym"),
    "confidence_labeler": (lambda c: ConfidencePseudoLabeler(threshold=0.5), "a"),
    "adaptive_labeler": (lambda c: AdaptiveConfidencePseudoLabeler(c), "a"),
    "adaptive_labeler_flexmatch": (lambda c: AdaptiveConfidencePseudoLabeler(c, form="flexmatch", threshold=0.5), "a"),
    "soft_match_weight": (lambda c: SoftMatchWeight(c), "a"),
    "alignment": (lambda c: DistributionAlignment(c), "a"),
    "pair_weight": (lambda c: PairUncertaintyWeight("min"), "abba"),
    "temporal_weight": (lambda c: TemporalAgreementWeight(), "aba"),
    "partial_dice": (lambda c: PartialDiceLoss(batch=True), "aym"),
    "partial_dice_ce": (lambda c: PartialClasses(batch=True, squared_pred=True), "aym"),
}
# MONAI's Dice loss reads the axes to sum over from a tensor, at which a full graph ends.
OF_MONAI = ("partial_dice", "partial_dice_ce")
SCRIPTABLE = [
    "rectification",
    "cross_pseudo",
    "cross_pseudo_hard",
    "labeler",
    "entropy_filtered",
    "cosine",
    "consistency",
    "consistency_b",
    "erda",
    "disagreement",
    "confidence_labeler",
]
SMOOTH = {  # functions of their trained inputs alone that gradcheck can differentiate, as (module, trained, others)
    "cross_pseudo_attached": (lambda: UncertaintyWeightedCrossPseudoLoss(detach_weight=False), "a", "bm"),
    "entropy_filtered": (lambda: EntropyFilteredPseudoLoss(), "a", "ym"),
    "cosine": (lambda: CosineConsistencyLoss(), "ab", "m"),
    "disagreement": (lambda: DisagreementLearningLoss(kl_weight=2.0), "a", "bym"),
    "erda": (lambda: ERDALoss(), "ab", "m"),
    "partial_dice": (lambda: PartialDiceLoss(batch=True), "a", "ym"),
    "affinity": (lambda: AffinityRectifiedLoss(stride=2), "af", "bg"),
}


class Rectified(RectifiedPseudoSupervisionLoss):
    def forward(self, a, b, mask):
        return super().forward([a, a.flip(2)], b, mask)


class PrototypeLogits(PrototypePseudoLabeler):
    def forward(self, f, g, y, mask):
        self.update(g, y, mask)
        return self.logits(f, size=[2 * side for side in f.shape[2:]])


class PartialClasses(PartialDiceCELoss):
    def forward(self, a, y, mask):
        classes = torch.ones(a.shape[:2], dtype=torch.bool, device=a.device)
        classes[1:, -1] = False
        return super().forward(a, y, mask, classes)


class Voting(EnsembleVotingPseudoLabels):
    def __init__(self):
        super().__init__(2)

    def forward(self, a, b):
        return super().forward([a, b, a.flip(2)])


def test_every_public_class_is_among_the_tested():
    indirect = {
        "BoxMix",
        "ClassFeatures",
        "ClassMemoryBank",
        "ConflictFreeGradient",
        "CopyPasteLoss",
        "CosineRamp",
        "DifficultyWeight",
        "LargestComponent",
        "LinearRamp",
        "MixedBatch",
        "Prediction",
        "PrototypeBank",
        "RunningMean",
        "SigmoidRamp",
    }
    tested = {base.__name__ for make, _ in MODULES.values() for base in type(make(2)).__mro__}
    assert {name for name in losses.__all__ if isinstance(getattr(losses, name), type)} - indirect <= tested


@pytest.mark.parametrize("name", sorted(MODULES.keys() - set(OF_MONAI)))
def test_torch_compile_gives_one_graph_and_the_same_numbers(name):
    make, names = MODULES[name]
    inputs = [draw()[k] for k in names]
    torch._dynamo.reset()
    torch.manual_seed(0)
    expected = make(3)(*inputs)
    torch.manual_seed(0)
    got = torch.compile(make(3), backend="eager", fullgraph=True)(*inputs)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", ["consistency", "contrastive", "erda"])
def test_a_compiled_loss_backpropagates_the_same_gradient(name):
    make, names = MODULES[name]
    gradients = []
    for wrap in (lambda module: module, lambda module: torch.compile(module, backend="aot_eager", fullgraph=True)):
        torch._dynamo.reset()
        torch.manual_seed(0)
        inputs = draw()
        leaf = inputs[names[0]].requires_grad_()
        wrap(make(3))(*(inputs[k] for k in names)).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", SCRIPTABLE)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_torchscript_gives_the_same_numbers_after_saving(name):
    make, names = MODULES[name]
    inputs = [draw()[k] for k in names]
    saved = io.BytesIO()
    torch.jit.save(torch.jit.script(make(3)), saved)
    saved.seek(0)
    with torch.jit.optimized_execution(False):
        torch.testing.assert_close(torch.jit.load(saved)(*inputs), make(3)(*inputs))


@pytest.mark.parametrize("name", SMOOTH)
@pytest.mark.parametrize("shape", [(1, 2, 4, 2), (1, 3, 2, 2, 2)], ids=str)
def test_gradients_are_those_of_finite_differences(name, shape):
    make, trained, others = SMOOTH[name]
    inputs = draw(shape, torch.float64, scale=1.0)
    constant = {k: inputs[k] for k in others}
    order = next(names for module, names in MODULES.values() if type(module(2)) is type(make()))

    def compute(*tensors):
        values = {**dict(zip(trained, tensors, strict=True)), **constant}
        return make()(*(values[k] for k in order))

    assert torch.autograd.gradcheck(compute, [inputs[k].requires_grad_() for k in trained])


@pytest.mark.parametrize("form", ["infonce", "distance"])
def test_the_contrastive_gradient_is_that_of_finite_differences(form):
    inputs = draw((1, 3, 6, 4), torch.float64)
    loss = PrototypeContrastiveLoss(
        3, CHANNELS, form=form, margin=2.0, anchor_fraction=1.0, min_anchors=1, max_anchors=10**4
    ).double()
    loss(*(inputs[k] for k in "faym"))  # gives it prototypes
    loss.eval()
    features = inputs["g"].requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss(f, inputs["a"], inputs["y"], inputs["m"]), [features])


@pytest.mark.parametrize("name", MODULES)
def test_metatensors_go_in_and_plain_tensors_come_out(name):
    make, names = MODULES[name]
    inputs = [draw()[k] for k in names]
    torch.manual_seed(0)
    expected = make(3)(*inputs)
    torch.manual_seed(0)
    got = make(3)(*(MetaTensor(tensor) for tensor in inputs))
    for value in got if isinstance(got, tuple) else [got]:
        assert type(value) is torch.Tensor
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", MODULES)
def test_half_precision_is_computed_in_float32(name, dtype):
    make, names = MODULES[name]
    half = draw(dtype=dtype)
    full = {k: tensor.float() if tensor.is_floating_point() else tensor for k, tensor in half.items()}
    values = []
    for inputs in (half, full):
        torch.manual_seed(0)
        values.append(make(3)(*(inputs[k] for k in names)))
    torch.testing.assert_close(*values, rtol=0, atol=0)


CASES = {
    "shape": st.tuples(
        st.integers(0, 3),
        st.integers(2, 6),
        st.lists(st.integers(1, 5), min_size=2, max_size=3),
    ),
    "scale": st.sampled_from([0.0, 1e-6, 1e-2, 1.0, 30.0, 1e3, 6e4]),
    "dtype": st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    "kept": st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    "label": st.sampled_from(["random", "first", "last"]),
    "seed": st.integers(0, 2**31 - 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
@settings(max_examples=120, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(**CASES)
def test_no_input_gives_nan_infinity_or_a_crash(name, shape, scale, dtype, kept, label, seed):
    """26 modules x 120 examples; both a first and a second call, so that memories are empty and filled."""
    batch, classes, spatial = shape
    inputs = draw((batch, classes, *spatial), dtype, scale, seed)
    generator = torch.Generator().manual_seed(seed)
    inputs["m"] = torch.rand(inputs["m"].shape, generator=generator) < kept
    if label != "random":
        inputs["y"] = torch.full_like(inputs["y"], 0 if label == "first" else classes - 1)
    make, names = MODULES[name]
    module = make(classes)
    leaves = {k: inputs[k].requires_grad_() for k in "abfg"}
    for _ in range(2):
        got = module(*(inputs[k] for k in names))
        for value in got if isinstance(got, tuple) else [got]:
            assert torch.isfinite(value).all()
        if isinstance(got, torch.Tensor) and got.requires_grad:
            for gradient in torch.autograd.grad(got.sum(), leaves.values(), allow_unused=True):
                assert gradient is None or torch.isfinite(gradient).all()
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


RANK = """
import sys, torch
from torch import distributed
from {package} import ConflictFreeGradient, PrototypeBank
rank = int(sys.argv[1])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
bank = PrototypeBank(2, 1)
bank.update(torch.tensor([[6.0 * rank], [0.0]]), torch.tensor([1.0 + rank, 0.0]))
w = torch.nn.Parameter(torch.zeros(2))
direction = torch.tensor([[1.0, 0.0], [3.0, 0.0]])[rank]
ConflictFreeGradient([w]).backward(w @ direction, w @ torch.tensor([-4.0, 1.0 + rank]))
print(bank.prototypes.flatten().tolist(), bank.seen.tolist(), w.grad.tolist())
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_keep_the_same_prototypes_and_take_the_same_step(tmp_path, pytestconfig):
    code = RANK.format(package=losses.__name__)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            cwd=pytestconfig.rootpath,
        )
        for rank in range(2)
    ]
    answers = [rank.communicate(timeout=300)[0].strip() for rank in ranks]
    assert answers == ["[2.0, 0.0] [True, False] [2.0, 1.5]"] * 2


@pytest.mark.slow
def test_the_import_needs_torch_and_monai_only_and_takes_no_longer_than_monai_losses(pytestconfig):
    package = losses.__name__
    code = f"""
import sys, time, torch
start = time.process_time()
import monai.losses
monai_s, before = time.process_time() - start, set(sys.modules)
start = time.process_time()
import {package}
own_s = time.process_time() - start
new = {{name.split(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
assert new <= {{"{package.split(".")[0]}", "torch", "monai"}}, new
assert own_s < 0.2 * monai_s + 0.5, (own_s, monai_s)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=pytestconfig.rootpath, timeout=300)


def test_conflict_free_gradients_accumulate_like_backward():
    w = torch.nn.Parameter(torch.zeros(2))
    for _ in range(2):
        ConflictFreeGradient([w]).backward(w.sum(), w[0])
    assert w.grad.tolist() == [4.0, 2.0]


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_read_from_the_device(name, monkeypatch):
    """The meta device holds no numbers: item(), cpu(), a branch on a tensor or a boolean index raise there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device has not
    make, names = MODULES[name]
    module = make(3).to("meta")
    inputs = {k: tensor.to("meta") for k, tensor in draw().items()}
    leaves = [inputs[k].requires_grad_() for k in "abfg"]
    got = module(*(inputs[k] for k in names))
    for value in got if isinstance(got, tuple) else [got]:
        assert value.is_meta
    if isinstance(got, torch.Tensor) and got.requires_grad:
        torch.autograd.grad(got.sum(), leaves, allow_unused=True)


def test_labelled_prototypes_and_a_conflict_free_step_read_nothing_from_the_device(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    inputs = {k: tensor.to("meta") for k, tensor in draw().items()}
    labeler = PrototypePseudoLabeler(3, CHANNELS).to("meta")
    labeler.update(inputs["f"], inputs["y"], inputs["m"])
    assert labeler.logits(inputs["g"]).is_meta
    w = torch.nn.Parameter(torch.zeros(2, device="meta"))
    ConflictFreeGradient([w]).backward(w.sum(), w[0])
    assert w.grad.is_meta
