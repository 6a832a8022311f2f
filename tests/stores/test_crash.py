"""kill -9 in a storm of writes: what was acknowledged is there; of the log at most the last interval is missing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from fazt.stores.sqlite import Store

WRITER = """
import os, sys, time, threading
from pathlib import Path
from fazt.core.record import CallRecord
from fazt.core.rules import expand_target
from fazt.stores.sqlite import NewSecret, Store
data, start = Path(sys.argv[1]), int(sys.argv[2])
store = Store.open(data)
app = store.apps.ensure("hello")[0].id
store.limits.set("net.log_flush", 500)
store.limits.set("net.log_buffer", 10000)
log = store.log
def say(text):
    os.write(1, (text + "\\n").encode())
taken = 0
write = log._write
def write_and_say():
    before = taken
    write()
    say(f"flushed {before}")
log._write = write_and_say
def storm():
    global taken
    while True:
        n = taken + 1
        log.append(CallRecord(f"c_{start}_{n}", time.time(), app, "cli", host="api.example.com", path="/", status=200))
        taken = n
        if n % 20 == 0:
            say(f"call {n}")
            time.sleep(0.002)
threading.Thread(target=storm, daemon=True).start()
for n in range(start, start + 1000000):
    store.rules.allow(expand_target(f"h{n}.example.com", scope=app, rate=n), frozenset({"rate"}))
    say(f"rule {n}")
    store.secrets.set(NewSecret(f"KEY{n}", f"value-of-secret-{n}", scope=app, domains=("api.example.com",)))
    say(f"secret {n}")
    store.secrets.set(NewSecret("ROTATED", f"value-number-{n:08d}", domains=("api.example.com",)))
    say(f"rotated {n}")
"""


def test_kill_9_in_a_storm_of_writes_loses_no_rule_no_secret_and_little_of_the_log(data: Path) -> None:
    for start, least, more in ((1, 5, 61), (100_000, 3, 13)):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(data), str(start)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        said: list[str] = []
        while not (said and said[-1].startswith("flushed ") and sum(line.startswith("rule ") for line in said) > least):
            said.append(process.stdout.readline().decode())
        for _ in range(more):  # and then at no particular moment
            said.append(process.stdout.readline().decode())
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.read().decode().splitlines()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL

        done = {kind: [int(line.split()[1]) for line in said if line.startswith(kind + " ")] for kind in KINDS}
        for name in ("policy.db", "log.db"):
            connection = sqlite3.connect(data / name)
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            connection.close()
        with Store.open(data) as store:
            app = store.apps.get("hello").id
            rates = {rule.pattern: rule.rate for rule in store.rules.list()}
            assert done["rule"] and all(rates[f"h{n}.example.com"] == n for n in done["rule"])
            for n in done["secret"]:
                assert store.secrets.value(app, f"KEY{n}") == f"value-of-secret-{n}"
            last = done["rotated"][-1]
            assert store.secrets.value("", "ROTATED") in (f"value-number-{last:08d}", f"value-number-{last + 1:08d}")
            assert store.source.current.revision >= len(done["rule"]) + len(done["secret"])
            logged = {
                int(call.record.call_id.rsplit("_")[-1])
                for call in store.log.calls(limit=1_000_000)
                if call.record.call_id.startswith(f"c_{start}_")
            }
        # Only what came after the last flush may be missing; how often one comes, tests of the log show.
        assert set(range(1, done["flushed"][-1] + 1)) <= logged
        assert logged == set(range(1, max(logged, default=0) + 1))
        assert done["call"][-1] + 20 >= max(logged, default=0)


KINDS = ("rule", "secret", "rotated", "call", "flushed")
