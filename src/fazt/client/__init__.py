"""The door for Python programs: clients for httpx2 and httpx, the lean functions beneath them, downloads, policies."""
