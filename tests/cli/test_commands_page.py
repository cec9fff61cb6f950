# SPDX-License-Identifier: Apache-2.0
"""docs/commands.md says what the commands say of themselves."""

import importlib.util
import inspect
import sys

import pytest

from scripts.cli import COMMANDS, EXIT_CODES, main


@pytest.fixture(scope="module")
def commands(bundle_root):
    spec = importlib.util.spec_from_file_location("commands_page", bundle_root / "docs" / "commands.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_the_page_is_up_to_date(commands):
    assert commands.PAGE.read_text() == commands.page(), "run: python docs/commands.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_meaning(commands, name):
    section = commands.section(name, COMMANDS[name])
    for option in inspect.signature(COMMANDS[name]).parameters:
        assert f"\n- `{option.upper()}`: " in section or f"\n- `--{option}`: " in section


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr())
    first = inspect.getdoc(COMMANDS[name]).splitlines()[0].split(":")[0]
    assert first[:40] in shown


def test_exit_codes_are_those_of_the_commands():
    from scripts.cli.training.bundle_command import INTERRUPTED
    from scripts.inference import SKIPPED

    assert {0, 1, 2, SKIPPED, INTERRUPTED} <= EXIT_CODES.keys()
