"""A secret that is looked for everywhere: as it is, in base64, URL-encoded, in hex, as JSON."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
from pathlib import Path
from urllib.parse import quote, quote_plus

CHUNK = 4 << 20


class Canary:
    """A value that stands nowhere by chance; some of its characters look different in every spelling."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = f"cnry{secrets.token_hex(12)}+/=&%\u00fc~{secrets.token_hex(4)}"
        self.forms = _forms(self.value)

    def __repr__(self) -> str:
        return f"<Canary {self.name}>"

    def found_in(self, data: bytes) -> list[str]:
        """Return how the value stands in there."""
        return [name for name, form in self.forms.items() if form in data]


def _forms(value: str) -> dict[str, bytes]:
    forms: dict[str, bytes] = {}
    for coding in ("utf-8", "latin-1"):
        raw = value.encode(coding)
        forms[f"raw {coding}"] = raw
        forms[f"hex {coding}"] = raw.hex().encode()
        forms[f"HEX {coding}"] = raw.hex().upper().encode()
        for offset in range(3):
            encoded = base64.b64encode(bytes(offset) + raw)[-(-8 * offset // 6) : 8 * (offset + len(raw)) // 6]
            forms[f"base64 {coding} {offset}"] = encoded
            forms[f"base64url {coding} {offset}"] = encoded.translate(bytes.maketrans(b"+/", b"-_"))
        for name, spell in (("quote", quote), ("quote_plus", quote_plus)):
            forms[f"{name} {coding}"] = spell(raw, safe="").encode()
            forms[f"{name} {coding} lower"] = re.sub(
                rb"%[0-9A-F]{2}", lambda found: found[0].lower(), forms[f"{name} {coding}"]
            )
    forms["json"] = json.dumps(value)[1:-1].encode()
    forms["core"] = value[: 4 + 24].encode()  # what no spelling but hex and base64 changes
    return forms


def in_files(folder: Path, canaries: list[Canary]) -> list[tuple[str, str, str]]:
    """Return (file, canary, form) for every find below a folder."""
    finds = []
    for path in folder.rglob("*"):
        if path.is_file():
            finds += [(path.name, one.name, form) for one in canaries for form in one.found_in(path.read_bytes())]
    return finds


def in_process(pid: int, canaries: list[Canary]) -> tuple[list[tuple[str, str, str]], int]:
    """Look through environment, command line and private memory of a process.

    Returns: (place, canary, form) of every find, and how many bytes of memory were read.
    """
    finds: list[tuple[str, str, str]] = []
    read = 0
    with contextlib.suppress(OSError):
        for what in ("environ", "cmdline"):
            data = Path(f"/proc/{pid}/{what}").read_bytes()
            finds += [(f"{pid} {what}", one.name, form) for one in canaries for form in one.found_in(data)]
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                span, access, _, _, inode, *name = line.split()
                if (
                    not access.startswith("r")
                    or (inode != "0" and "w" not in access)
                    or name[:1] in (["[vvar]"], ["[vsyscall]"])
                ):
                    continue
                begin, end = (int(part, 16) for part in span.split("-"))
                tail = b""
                for at in range(begin, end, CHUNK):
                    try:
                        memory.seek(at)
                        data = memory.read(min(CHUNK, end - at))
                    except (OSError, OverflowError):
                        break
                    read += len(data)
                    whole = tail + data
                    finds += [(f"{pid} {line}", one.name, form) for one in canaries for form in one.found_in(whole)]
                    tail = whole[-256:]
    return finds, read
