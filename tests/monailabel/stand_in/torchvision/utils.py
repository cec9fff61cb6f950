# SPDX-License-Identifier: Apache-2.0
"""Imported by monailabel.transform.post, called only by its writers of 2D pictures, which this app has not."""


def make_grid(*args, **kwargs):
    raise NotImplementedError("a stand-in: install the torchvision that matches your PyTorch")


save_image = make_grid
