# SPDX-License-Identifier: Apache-2.0
"""A stranger's config is read, not run; code that this bundle does not have is named with its key."""

import json

import pytest

from scripts.cli.check_config import check_config, find_foreign_code
from scripts.data import DataError

FOREIGN = {
    "call": ({"a": "$__import__('os').system('x')"}, "a: the expression"),
    "call in a list": ({"a": [1, {"b": "$open('x')"}]}, "a#1#b: the expression"),
    "attribute": ({"a": "$@network.__class__"}, "a: the expression"),
    "leading space": ({"a": "  $print(1)"}, "a: the expression"),
    "comprehension": ({"a": "$[x for x in @b]"}, "a: the expression"),
    "import": ({"imports": ["$import subprocess"]}, "imports#0: the expression"),
    "target": ({"a": {"_target_": "os.system", "command": "x"}}, "a: _target_ os.system"),
    "builtin": ({"a": {"_target_": "eval", "_args_": ["x"]}}, "a: _target_ eval"),
    "target expression": ({"a": {"_target_": "$print"}}, "a: _target_ $print"),
    "torch.load": ({"a": {"_target_": "torch.load"}}, "a: _target_ torch.load"),
    "private target": ({"a": {"_target_": "monai.bundle.run"}}, "a: _target_ monai.bundle.run"),
    "disabled": ({"a": {"_target_": "Compose", "_disabled_": "$print(1)"}}, "a#_disabled_: the expression"),
    "macro": ({"a": "%/tmp/evil.json::b"}, "a: %/tmp/evil.json::b reads another file"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_code_is_named_with_its_key(name):
    config, words = FOREIGN[name]
    found = list(find_foreign_code(config))
    assert any(text.startswith(words) for text in found), found


@pytest.mark.parametrize(
    "config",
    [
        {"a": "$@b + 1", "c": "$[@x#y] * 3", "d": "$@b if @c > 2 else None"},
        {"a": "%b#c", "d": "%train::handlers", "e": "liver", "f": [1.0, None, True]},
        {"a": {"_target_": "NormalizeIntensityd", "keys": "image"}},
        {"a": {"_target_": "scripts.networks.DualEnsemble"}, "b": {"_target_": "torch.optim.SGD"}},
        {"a": {"_target_": "monai.losses.DiceLoss"}},
    ],
)
def test_values_and_components_are_allowed(config):
    assert list(find_foreign_code(config)) == []


def test_the_bundles_own_configs_pass(bundle_root, capsys):
    assert check_config(str(bundle_root / "configs")) == 0
    assert capsys.readouterr().out.endswith(" files, 0 texts that may run foreign code\n")


def test_nothing_is_evaluated_and_the_exit_code_is_1(tmp_path, capsys):
    marker = tmp_path / "marker"
    (tmp_path / "inference.json").write_text(json.dumps({"a": f"$open({str(marker)!r}, 'w')"}))
    (tmp_path / "logging.conf").write_text("[loggers]\nkeys=root\n")
    assert check_config(str(tmp_path)) == 1
    output = capsys.readouterr().out
    assert f"{tmp_path / 'inference.json'}: a: the expression" in output
    assert f"{tmp_path / 'logging.conf'}: Python evaluates a logging file" in output
    assert "2 files, 2 texts" in output
    assert not marker.exists()


@pytest.mark.parametrize("content", ["{", "[" * 100000])
def test_what_is_no_config_is_one_sentence(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match="a.json: cannot be read as a config"):
        check_config(str(tmp_path / "a.json"))


def test_nothing_to_check_is_an_error(tmp_path):
    for paths in ((), (str(tmp_path),), (str(tmp_path / "gone"),)):
        with pytest.raises(DataError):
            check_config(*paths)
