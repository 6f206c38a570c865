"""How long a compile takes: the processor time of the whole process, which has to feel instant.

python -m benchmarks.compile_time [MODEL] [--runs 15]
"""

import resource
import statistics
import subprocess
import sys
import tempfile

import click


@click.command()
@click.argument("model", default="lstm")
@click.option("--runs", type=click.IntRange(2), default=15, show_default=True)
def main(model: str, runs: int) -> None:
    """Compile MODEL again and again, each time in a process of its own, after one that may write bytecode."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs + 1):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "rnngen", "compile", model, "-o", folder, "--force"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    low, median, high = statistics.quantiles(times[1:], n=4)
    click.echo(f"{model}: {median:.3f} s of processor time, quartiles {low:.3f} and {high:.3f}, {runs} runs")


if __name__ == "__main__":
    main()
