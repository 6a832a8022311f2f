"""`fazt completion`: tab completion for bash, zsh and fish."""

from __future__ import annotations

import os

import click

from fazt.cli.output import examples, say
from fazt.errors import ConfigError

VARIABLE = "_FAZT_COMPLETE"
_HOW = {
    "bash": 'add to ~/.bashrc: eval "$(fazt completion bash)"',
    "zsh": 'add to ~/.zshrc: eval "$(fazt completion zsh)"',
    "fish": "run once: fazt completion fish > ~/.config/fish/completions/fazt.fish",
}


@click.command(epilog=examples("fazt completion bash", "fazt completion fish > ~/.config/fish/completions/fazt.fish"))
@click.argument("shell", type=click.Choice(list(_HOW)), required=False)
def completion(shell: str | None) -> None:
    """Print the script that switches on tab completion; without SHELL for the one you use.

    \b
    bash: add to ~/.bashrc:  eval "$(fazt completion bash)"
    zsh:  add to ~/.zshrc:   eval "$(fazt completion zsh)"
    fish: fazt completion fish > ~/.config/fish/completions/fazt.fish
    """
    from click.shell_completion import get_completion_class

    from fazt.cli.base import root

    shell = shell or os.path.basename(os.environ.get("SHELL", ""))
    if shell not in _HOW:
        raise ConfigError("which shell?", hint=f"fazt completion {'|'.join(_HOW)}")
    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(root, {}, "fazt", VARIABLE)
    say(made.source_template % made.source_vars())
    say(f"# {_HOW[shell]}")  # at the end: zsh wants its #compdef in the first line
