"""One download in a process of its own: `python -m tests.client.download_alone KIND PORT URL DEST [WISHES as JSON]`.

Prints one JSON object, and before it, with the wish "mark", a line whenever so many bytes are there. SIGINT and SIGKILL
are what the tests send.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from fazt.client.download_error import DownloadError
from tests.client.download_site import Fetch


def _peak() -> int:
    """Return the most KiB of memory that this process has had since it was started."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def main() -> int:
    kind, port, url, dest = sys.argv[1:5]
    wishes: dict[str, Any] = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
    if "uid" in wishes:
        os.setgroups([])
        os.setgid(wishes["uid"])
        os.setuid(wishes.pop("uid"))
    mark = wishes.pop("mark", None)
    if mark is not None:
        wishes["progress"] = lambda done, _total: done >= mark and print("there", flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    fetch = Fetch(kind, int(port))
    try:
        got = fetch(url, dest, **wishes)
    except DownloadError as error:
        said = {**error.public(), "cause": type(error.__cause__).__name__, "detail": error.detail}
    except KeyboardInterrupt:
        said = {"interrupted": True}
    else:
        said = got.public()
    said["peak"] = _peak()
    said["events"] = [row.reason for row in fetch.ledger.rows]
    print(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
