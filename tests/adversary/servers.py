"""The far side of the world: every address there is, a scripted DNS server, and a canary on all that is internal.

Runs in a network namespace of its own, in which every IPv4 and IPv6 address is local (Linux's AnyIP), so whatever the
client connects to is accepted and told. What is accepted on `PUBLIC` is an origin; all else is the canary.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from dnslib import AAAA, QTYPE, RR, A, DNSHeader, DNSRecord

PUBLIC = ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "93.184.216.35")
DNS = "9.9.9.9"
INTERNAL_4 = ("10.0.0.5", "169.254.169.254", "192.168.1.10", "172.16.0.9", "100.64.0.1", "127.0.0.1", "0.0.0.0")
INTERNAL_6 = (
    "::1",
    "fd00:ec2::254",
    "fe80::5",
    "64:ff9b::a00:5",  # NAT64 of 10.0.0.5
    "64:ff9b::a9fe:a9fe",  # NAT64 of the metadata service
    "2002:a00:5::1",  # 6to4 of 10.0.0.5
    "2001:0:a00:5::1",  # Teredo
    "::ffff:10.0.0.5",
    "::10.0.0.5",
    "fec0::5",
    "ff02::1",
)

SCRIPT: dict[str, list[list[str]]] = {
    # name: the answers to its queries in turn; the last one stays
    "good.test": [["93.184.216.34"]],
    "good6.test": [["2606:2800:220:1:248:1893:25c8:1946"]],
    "other.test": [["93.184.216.35"]],
    "rebind-at-once.test": [["93.184.216.34"], ["10.0.0.5"]],
    "rebind-later.test": [["93.184.216.34"], ["93.184.216.34"], ["169.254.169.254"]],
    "rebind-back.test": [["10.0.0.5"], ["93.184.216.34"]],
    "mixed.test": [["93.184.216.34", "10.0.0.5"]],
    "mixed-families.test": [["93.184.216.34", "fd00:ec2::254"]],
    "mixed-last.test": [["93.184.216.34", "93.184.216.35", "93.184.216.34", "192.168.1.10"]],
    "own.test": [["11.0.0.1"]],  # the near side's own address
    **{f"v4-{number}.test": [[address]] for number, address in enumerate(INTERNAL_4)},
    **{f"v6-{number}.test": [[address]] for number, address in enumerate(INTERNAL_6)},
}


class Far:
    """What was seen: connections to public addresses, touches of the canary, questions."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.lock = threading.Lock()
        self.asked: dict[str, int] = {}

    def note(self, kind: str, what: str) -> None:
        with self.lock, self.log.open("a") as file:
            file.write(json.dumps([kind, what]) + "\n")

    def answer(self, name: str, family: int) -> list[str]:
        with self.lock:
            if name == "begin-again.test":
                self.asked.clear()
                return []
            script = SCRIPT.get(name, [[]])
            turn = self.asked[name] = self.asked.get(name, 0) + (family == 4)
        # both families of one look-up see one turn: the question for IPv4 opens it
        current = script[min(max(turn, 1), len(script)) - 1]
        return [address for address in current if ipaddress.ip_address(address).version == family]


def serve(far: Far) -> None:
    """Answer on 80, on every address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            address = self.request.getsockname()[0].removeprefix("::ffff:")
            if address not in PUBLIC:
                far.note("canary", address)
                return
            far.note("origin", address)
            self.request.settimeout(10)
            data = b""
            while True:
                try:
                    piece = self.request.recv(65536)
                except OSError:
                    return
                if not piece:
                    return
                data += piece
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    self.request.sendall(_answer(head))

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 128

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

    for port in (80, 443, 8080):
        threading.Thread(target=Server(("::", port), Handler).serve_forever, daemon=True).start()


def _answer(head: bytes) -> bytes:
    path = head.split(b" ")[1].decode()
    if path.startswith("/to/"):
        return b"HTTP/1.1 302 Found\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % path[4:].encode()
    if path == "/close":
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer_questions(far: Far) -> None:
    """Answer DNS questions by the script."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((DNS, 53))
    while True:
        data, peer = sock.recvfrom(4096)
        question = DNSRecord.parse(data)
        name = str(question.q.qname).rstrip(".").lower()
        kind = QTYPE[question.q.qtype]
        reply = DNSRecord(DNSHeader(id=question.header.id, qr=1, aa=1, ra=1), q=question.q)
        if kind in ("A", "AAAA"):
            far.note("dns", name)
            for address in far.answer(name, 4 if kind == "A" else 6):
                data_of: Any = A(address) if kind == "A" else AAAA(tuple(ipaddress.ip_address(address).packed))
                reply.add_answer(RR(question.q.qname, question.q.qtype, ttl=0, rdata=data_of))
        sock.sendto(reply.pack(), peer)


def open_link() -> None:
    """Make every address local, and answer over the link that the near side has laid."""
    for command in (
        "ip link set lo up",
        "ip link set far up",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo table 100",
        "ip -6 rule add iif far lookup 100",  # not for what goes out: neighbours have to be found
        "ip addr add 11.0.0.2/32 dev far",
        "ip route add 11.0.0.1/32 dev far",
        "ip -6 addr add 2a00::2/128 dev far nodad",
        "ip -6 route add 2a00::1/128 dev far",
    ):
        subprocess.run(command.split(), check=True)


def main() -> None:
    """Wait until the link is there, then serve for ever."""
    far = Far(Path(sys.argv[1]))
    print("namespace", flush=True)
    sys.stdin.readline()
    open_link()
    serve(far)
    threading.Thread(target=answer_questions, args=(far,), daemon=True).start()
    print("serving", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
