"""`python -m rnngen` is the command `rnngen`, of which `doctor` alone runs where click is missing."""

import sys

if __name__ == "__main__":
    try:
        from rnngen.cli import main
    except ModuleNotFoundError as missing:
        from pathlib import Path

        from rnngen.doctor import OutOfReach, report

        command, *arguments = sys.argv[1:] or [""]
        if command != "doctor" or {word for word in arguments if word.startswith("-")} - {"--json"}:
            print(f"Error: The package '{missing.name}' is not installed: pip install {missing.name}", file=sys.stderr)
            sys.exit(2)
        try:
            print(report([Path(word) for word in arguments if word != "--json"], in_json="--json" in arguments))
        except OutOfReach as reason:
            print(f"Error: {reason}", file=sys.stderr)
            sys.exit(2)
    else:
        main(prog_name="rnngen")
