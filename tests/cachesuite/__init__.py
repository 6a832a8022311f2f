"""What RFC 9111 asks of a cache, as a table of cases, run through real engines against a real origin on loopback.

The cases follow the categories of the public suite http-tests/cache-tests and have its names where they ask the same,
so that counts can be laid side by side; `python -m tests.cachesuite` prints them.
"""
