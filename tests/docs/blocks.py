"""The examples of the documents: fenced blocks of Python and of the shell, and what they say comes of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = ("README.md", "docs/client.md")
"""The documents whose examples are run."""
_FENCE = re.compile(r"^```(\w*)[ ]*([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_PRINTED = re.compile(r"^\s*print\(.*\)  # (.+)$", re.MULTILINE)
_CODE = re.compile(r"#.*\bexit code (\d+)")
_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?")


@dataclass(frozen=True)
class Block:
    """One example.

    Args:
        document: path from the root.
        line: of its first line.
        language: "python", "sh", "toml", …
        text: what a user would type.
    """

    document: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def printed(self) -> list[str]:
        """What a Python example says its prints show, in order."""
        return _PRINTED.findall(self.text)

    @property
    def told(self) -> list[str]:
        """What the comment at the end of a Python example says was printed, in order."""
        last = self.text.rstrip().rpartition("\n")[2]
        return re.sub(r" \([^)]*\)", "", last[2:]).split(", ") if last.startswith("# ") else []

    @property
    def commands(self) -> list[tuple[str, int]]:
        """The commands of a shell example, each with the exit code it says it has."""
        found: list[tuple[str, int]] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            whole = [line]
            if (here := _HEREDOC.search(line)) is not None:
                for more in lines:
                    whole.append(more)
                    if more.strip() == here[1]:
                        break
            while whole[-1].endswith("\\"):
                whole.append(next(lines))
            code = _CODE.search(line)
            found.append(("\n".join(whole), int(code[1]) if code else 0))
        return found


def blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document in order."""
    text = (ROOT / document).read_text("utf-8")
    return [
        Block(document, text.count("\n", 0, found.start(3)) + 1, found[1], found[3]) for found in _FENCE.finditer(text)
    ]


def examples(*languages: str) -> list[Block]:
    """Return all examples in these languages."""
    return [block for document in RUN for block in blocks(document) if block.language in languages]
