"""`python -m rnngen` is the command `rnngen`."""

from rnngen.cli import main

if __name__ == "__main__":
    main(prog_name="rnngen")
