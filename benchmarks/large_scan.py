# SPDX-License-Identifier: Apache-2.0
"""Peak memory of segmenting a scan larger than memory, slab by slab: a narrow pair of networks on voxels of noise.

python benchmarks/large_scan.py [--size 512 512 600] [--classes 2]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import NormalizeIntensityd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.hardware import peak_memory_gib
from scripts.inference.streaming import segment_by_slabs
from scripts.networks import DualEnsemble, ResNetVNet, VNet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 600))
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--spacing", type=float, default=1.0, help="of the networks' grid; the scan has 1 mm")
    parser.add_argument("--window", type=int, default=128)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.nii")
        header = nibabel.Nifti1Header()
        header.set_data_shape(options.size)
        header.set_data_dtype(np.int16)
        header.set_sform(np.eye(4), 1)
        header["vox_offset"], header["magic"] = 352, b"n+1"
        rng = np.random.default_rng(0)
        with path.open("wb") as file:
            file.write(header.binaryblock + bytes(4))
            plane = rng.integers(-1000, 1000, options.size[0] * options.size[1], dtype=np.int16)
            for shift in rng.integers(0, len(plane), options.size[2]):
                file.write(np.roll(plane, shift).tobytes())
        shared = {"base_channels": 2, "stem_stride": 2, "norm": "group", "out_channels": options.classes}
        network = DualEnsemble(ResNetVNet(**shared), VNet(**shared)).eval()
        inferer = SlidingWindowInferer([options.window] * 2 + [64], sw_batch_size=1, overlap=0.1, mode="gaussian")
        print(f"before: {peak_memory_gib():.2f} GiB", flush=True)
        start = time.monotonic()
        torch.set_num_threads(1)
        segment_by_slabs([str(path)], network, inferer, NormalizeIntensityd("image"), [options.spacing] * 3)
        print(f"{options}: peak {peak_memory_gib():.2f} GiB, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
