"""Every command that a help text or the documentation shows is one that there is (F61)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fazt.cli.base import root

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SHELL = re.compile(r"```(?:sh|bash|console|shell)\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`(fazt [a-z][^`]*)`")


def leaves(
    group: click.Group = root, path: tuple[str, ...] = (), parent: click.Context | None = None
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with the words that name it."""
    context = click.Context(group, info_name=path[-1] if path else "fazt", parent=parent)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name), context)
        else:
            yield (*path, name), command


def fazt_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of every fazt command in a shell line, without what the shell itself reads."""
    line = line.strip().removeprefix("$ ")
    words = shlex.split(line, comments=True)
    command: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", "&&", ";", "||") or word.startswith("$(") or word in ("<", ">", "2>", "&"):
            if command[:1] == ["fazt"]:
                yield command[1:]
            command = [] if word in ("|", "&&", ";", "||") else ["redirected"]
        else:
            command.append(word)


def parse(words: list[str]) -> None:
    """Parse a command as click would, without running it."""
    context = root.make_context("fazt", list(words), resilient_parsing=False)
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        assert rest, f"fazt {words} names no command"
        name, command, args = context.command.resolve_command(context, rest)
        assert command is not None
        context = command.make_context(name, args, parent=context)


def in_epilogs() -> list[str]:
    found = []
    for _, command in [*leaves(), ((), root)]:
        found += [line for line in (command.epilog or "").splitlines() if "fazt " in line]
    return found


def in_documents() -> list[str]:
    found = []
    for document in DOCUMENTS:
        for block in _SHELL.findall(document.read_text("utf-8")) if document.exists() else ():
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if re.match(r"(?:\$ )?(?:.*\| )?fazt ", line)]
    return found


def unknown_in(said: str) -> list[str]:
    """Return what a mentioned command (`fazt limits set GROUP.NAME`) names that there is not."""
    words = re.sub(r"\{[^}]*\}", "X", said).split()
    known = {" ".join(path): command for path, command in leaves()}
    name = next((n for n in (" ".join(words[:3]), " ".join(words[:2]), words[0]) if n in known), None)
    if name is None:
        plain = [word for word in words if re.fullmatch(r"[a-z]+", word)]
        return [] if any(path.startswith(" ".join([*plain, ""])) for path in known) else [said]
    options = {option for param in known[name].params for option in param.opts + param.secondary_opts}
    return [said for word in words if word.startswith("--") and word not in options | {"--help"}]


@pytest.mark.parametrize("line", in_epilogs())
def test_F61_every_example_in_a_help_text_parses(line: str) -> None:
    commands = list(fazt_commands(line))
    assert commands, line
    for words in commands:
        parse(words)


@pytest.mark.parametrize("line", in_documents() or ["fazt net list"])
def test_F61_every_example_in_the_documents_parses(line: str) -> None:
    for words in fazt_commands(line):
        if not {"--help", "-h", "--version"} & set(words):
            parse(words)


def test_F61_what_the_documents_mention_exists() -> None:
    said = [
        said for document in DOCUMENTS if document.exists() for said in _INLINE.findall(document.read_text("utf-8"))
    ]
    assert [wrong for one in said for wrong in unknown_in(one.removeprefix("fazt "))] == []


def test_every_command_has_examples() -> None:
    assert [path for path, command in leaves() if "fazt " not in (command.epilog or "")] == []


def test_hints_in_the_sources_name_commands_that_exist() -> None:
    pattern = re.compile(r"fazt ((?:net|secret|limits|env|app|fetch|explain|log|serve|demo)\b[^\"'`:;,)\n]*)")
    wrong = []
    for source in sorted((ROOT / "src").rglob("*.py")):
        for said in pattern.findall(source.read_text("utf-8")):
            wrong += [(source.name, one) for one in unknown_in(said)]
    assert wrong == []
