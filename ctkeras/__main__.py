"""`python -m ctkeras` is the `ctkeras` command."""

import sys


def main() -> None:
    """The `ctkeras` command; Ctrl-C while it still imports is one line, too."""
    try:
        from ctkeras.cli.main import run
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
