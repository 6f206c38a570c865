"""From rows to a page: `docs/performance.md`, its pictures, and what the README shows of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.modules import ROOT
from benchmarks.report.rows import NoRow, Rows, by_machine, read
from benchmarks.report.tables import THEMES, Measured, in_page, markdown

__all__ = ["NoRow", "texts", "with_part", "write"]

PAGE = "performance.md"
PICTURES = "performance"
ESTIMATES = "estimates"
PARTS = {"sizes": "sizes", "library": "library", "length": "length", "chunks": "chunks"}
"""By the name of a picture the part of the suite that it shows."""
BEGIN, END = "<!-- Written by `python -m benchmarks report`: -->", "<!-- Up to here. -->"


def write(files: Sequence[Path], out: Path | None) -> Iterator[Path]:
    """Write the page and its pictures into a folder; without one into `docs/`, and the README's part with them.

    Raises NoRow for what is no row, and ValueError if the README has no place for its part.
    """
    from benchmarks.report import estimates
    from benchmarks.report.pictures import draw, draw_one

    folder = out or ROOT / "docs"
    machines = by_machine(read(files))
    text, part = texts(machines)
    readme = ROOT / "README.md"
    whole = with_part(readme.read_text("utf-8"), part) if out is None else ""
    for machine, rows in machines.items():
        yield from draw(rows, folder / PICTURES, _prefix(machine, machines), _pictures(rows))
    chains = estimates.chains()
    yield from draw_one(folder / PICTURES / ESTIMATES, lambda theme: estimates.picture(chains, theme))
    (folder / PAGE).write_text(text, "utf-8")
    yield folder / PAGE
    if whole:
        readme.write_text(whole, "utf-8")
        yield readme


def texts(machines: dict[str, Rows]) -> tuple[str, str]:
    """The page, and the README's part of it, which is about the machine that was measured last."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from benchmarks.report import estimates

    loader = FileSystemLoader(Path(__file__).parent)
    layout = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=loader, undefined=StrictUndefined, **layout)
    environment.filters["paragraph"] = paragraph
    found = []
    for machine, rows in machines.items():
        names = [f"{_prefix(machine, machines)}{name}-{theme}.svg" for name in _pictures(rows) for theme in THEMES]
        found.append(Measured(machine, rows, [f"{PICTURES}/{name}" for name in names]))
    first = Measured(found[0].name, found[0].rows, [f"docs/{name}" for name in found[0].pictures])
    both = {theme: f"{PICTURES}/{ESTIMATES}-{theme}.svg" for theme in THEMES}
    about = "Time of a step against the hidden units, estimated, for two cards and two types"
    estimated = {"picture": in_page(both, about), "table": markdown(estimates.table(estimates.chains()))}
    page = environment.get_template("performance.md.jinja").render(machines=found, estimated=estimated, wide=_wide())
    return page.strip() + "\n", environment.get_template("readme.md.jinja").render(one=first).strip()


def _wide() -> dict[str, object]:
    """What the page says of the kernels of wide layers, from the rows that are kept."""
    from benchmarks import wide

    found = wide.read(wide.KEPT)
    return {"triton": found[0]["triton"], "table": wide.markdown(found).rstrip()}


def paragraph(text: str) -> str:
    """In lines as long as those of other pages."""
    return fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False) + "\n"


def with_part(readme: str, part: str) -> str:
    """The README with this between its two marks. Raises ValueError if it has none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"README.md has no place for the table, which is between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{part}\n\n{END}{after}"


def _pictures(rows: Rows) -> list[str]:
    """The names of those for which something was measured."""
    return [name for name, part in PARTS.items() if any("ms" in row for row in rows.of(part=part, direction="both"))]


def _prefix(machine: str, machines: dict[str, Rows]) -> str:
    """Of the names of a machine's pictures; none where there is one machine."""
    return "" if len(machines) == 1 else "".join(c if c.isalnum() else "-" for c in machine.lower()) + "-"
