# SPDX-License-Identifier: Apache-2.0
"""The configs are documentation: short expressions, names instead of positions."""

import json
import re

import pytest
from monai.bundle import ConfigParser

from scripts.networks import DualNetwork, VNet

EXPRESSION = 120


def texts(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_every_expression_can_be_read_at_a_glance(bundle_root, name):
    config = json.loads((bundle_root / "configs" / f"{name}.json").read_text())
    assert [text for text in texts(config) if text.startswith("$") and len(text) > EXPRESSION] == []


def test_no_override_counts_the_handlers(bundle_root):
    for path in (bundle_root / "configs").rglob("*.json"):
        counted = [key for key in json.loads(path.read_text()) if re.search(r"#\d+(#|$)", key)]
        assert not counted, path


def test_the_patch_is_checked_against_both_networks():
    assert len(list(DualNetwork(VNet(base_channels=4), VNet(base_channels=4)).children())) == 2


@pytest.mark.parametrize("options", [{"dataset_dir": 2019}, {"dataset_name": 2019, "runs_dir": 7}])
def test_numbers_serve_as_names(bundle_root, options):
    """MONAI's command line makes numbers of words that look so."""
    parser = ConfigParser()
    parser.read_config([str(bundle_root / "configs" / name) for name in ("train.json", "datasets/folder.json")])
    parser.update(options)
    assert parser.get_parsed_content("run_name") == "2019_mean_teacher_copy_paste_seed0"
