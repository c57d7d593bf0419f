"""`python -m fulora` is the command `fulora`."""

from fulora.cli import main

if __name__ == "__main__":
    main()
