"""``python -m nestforge``: the command line."""

from nestforge.cli import main

if __name__ == "__main__":
    main()
