"""Every `mf-ros` command in the documents and in the help is one that the parsers take; topics have their names."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from pathlib import Path
from typing import Dict, Iterator

import pytest

pytest.importorskip("tyro")
pytest.importorskip("torch")
pytest.importorskip("rosbags")

from mf_ros.cli import main as cli
from mf_ros.engine.outputs import OUTPUTS
from mf_training.settings import load_train_config

ROOT = Path(__file__).parents[1]
# Where the rest of a line is the shell's.
SHELL = (">", "|", "&")
# What sentences name without meaning a whole command: a command alone, one of its options, or these.
NAMES = re.compile(
    r"[a-z]+( --[a-z0-9-]+)?|COMMAND .*|bench SUITE|dataset show|train CONFIG( --plan)?|train posttrain_flux"
)


def texts() -> Dict[str, str]:
    """Documents, and the helps with their examples, by name."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    helps = {"mf-ros --help": cli.USAGE}
    for name, command in cli.COMMANDS.items():
        kind = getattr(importlib.import_module(command.module), command.name)
        helps[f"mf-ros {name} --help"] = inspect.getdoc(kind) or ""
    return {**{path.name: path.read_text(encoding="utf-8") for path in paths}, **helps}


TEXTS = texts()


def commands_in(text: str) -> Iterator[str]:
    """Commands with what follows them: lines of code blocks, and pieces of code in a sentence, which may be broken."""
    text = text.replace("\\\n", " ")
    variables = dict(re.findall(r'^ *([A-Z]+)="(.*)"$', text, re.MULTILINE))
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()] + re.findall(r"^ {4,}(\S.*)$", rest, re.MULTILINE)
    pieces = [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", rest)]
    for line in [*lines, *pieces]:
        found = re.match(r"(?:\.venv/bin/)?mf-ros (.+)", line.strip())
        if found:
            command = re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], found[1])
            if not NAMES.fullmatch(command):
                yield command


def words_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    return words[: next((place for place, word in enumerate(words) if word in SHELL), None)]


def test_commands_are_found_in_blocks_and_in_sentences() -> None:
    text = """```
FLEET="--seed 1"
mf-ros check my_bag   # is it usable?
mf-ros simulate --out a.mcap $FLEET &
```
Then `mf-ros replay my_bag
--out out`, unlike `mf-ros replay` and `mf-ros export --int8`:

    mf-ros bench core --json > core.json
"""
    assert [words_of(command) for command in commands_in(text)] == [
        ["check", "my_bag"],
        ["simulate", "--out", "a.mcap", "--seed", "1"],
        ["bench", "core", "--json"],
        ["replay", "my_bag", "--out", "out"],
    ]


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if any(commands_in(text))])
def test_the_parsers_take_every_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_robot.yaml").touch()
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    for command in dict.fromkeys(commands_in(TEXTS[name])):
        words = words_of(command)
        try:
            options = cli._parse(words[0], words[1:])
        except SystemExit:
            pytest.fail(f"mf-ros {command}: {capsys.readouterr().err}")
        if words[0] == "train":
            load_train_config(*options._named())


def test_the_document_of_bags_lists_the_topics_that_replay_writes() -> None:
    section = TEXTS["bags.md"].partition("## Written by `replay`")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert listed == list(OUTPUTS)
