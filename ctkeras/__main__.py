"""`python -m ctkeras` is the `ctkeras` command."""

from ctkeras.cli.main import run

if __name__ == "__main__":
    run()
