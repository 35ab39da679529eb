"""``python -m vitctl``: the same command line as ``vitctl`` (``torchrun -m vitctl`` needs it)."""

from vitctl.cli.app import main

if __name__ == "__main__":
    main()
