"""`python -m fazt` is `fazt`."""

from fazt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
