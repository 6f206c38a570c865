"""`python -m rnngen` is the command `rnngen`, of which `doctor` alone runs where click is missing."""

import sys

if __name__ == "__main__":
    try:
        from rnngen.cli import main
    except ModuleNotFoundError as missing:
        from pathlib import Path

        from rnngen.doctor import NotCompiled, OutOfReach, report

        command, *arguments = sys.argv[1:] or [""]
        options = {word for word in arguments if word.startswith("-")}
        if command != "doctor" or options - {"--json", "--build"}:
            print(f"Error: The package '{missing.name}' is not installed: pip install {missing.name}", file=sys.stderr)
            sys.exit(2)
        try:
            modules = [Path(word) for word in arguments if word not in options]
            print(report(modules, in_json="--json" in options, build="--build" in options))
        except OutOfReach as reason:
            print(f"Error: {reason}", file=sys.stderr)
            sys.exit(2)
        except NotCompiled as reason:
            print(reason.report)
            print(f"Error: {reason}", file=sys.stderr)
            sys.exit(1)
    else:
        main(prog_name="rnngen")
