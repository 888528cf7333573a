"""`python -m ssmrank` is the command `ssmrank`."""

from ssmrank.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
