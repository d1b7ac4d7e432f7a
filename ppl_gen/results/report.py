"""One HTML page that holds everything: text, tables, pictures. It fetches nothing and opens anywhere."""

from __future__ import annotations

import base64
import html
import io
import itertools
import math
import numbers
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_gen.results.summary import summary_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "summary_table", "write_report"]


@dataclass(frozen=True)
class Section:
    """A part of a report: heading, text, one table, pictures; whatever is not given is left out.

    Attributes:
        title: the heading.
        text: plain text. An empty line starts a paragraph, lines that start with ``- `` make a list.
        table: rows as mappings column -> value, or a pandas ``DataFrame`` (also with pairs as columns).
        figures: pairs (caption, ``matplotlib.figure.Figure``).
    """

    title: str
    text: str = ""
    table: Any = None
    figures: Sequence[tuple[str, Figure]] = ()


def write_report(path: Path | str, *, title: str, sections: Iterable[Section]) -> Path:
    """Write the page to ``path``, making its folder; a page already there is replaced when it is whole.

    Returns:
        The file.

    Raises:
        OSError: the disk refused; a page already there is left as it was.
    """
    path, sections = Path(path), list(sections)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new-{uuid.uuid4().hex[:12]}")
    try:
        new.write_text(_page(title, sections), "utf-8")
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    return path


def _page(title: str, sections: Sequence[Section]) -> str:
    links = [f'<a href="#part-{i}">{html.escape(part.title)}</a>' for i, part in enumerate(sections)]
    contents = f'<nav aria-label="Contents">{"".join(links)}</nav>' if len(links) > 2 else ""
    body = "\n".join(_section(i, part) for i, part in enumerate(sections))
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)}</title>\n'
            f"<style>{_CSS}</style>\n</head>\n<body>\n<main>\n<header><h1>{html.escape(title)}</h1></header>\n"
            f"{contents}\n{body}\n</main>\n</body>\n</html>\n")


def _section(number: int, part: Section) -> str:
    pieces = [f'<section id="part-{number}">', f"<h2>{html.escape(part.title)}</h2>", _text(part.text)]
    if part.table is not None:
        pieces.append(_table(part.table))
    pieces += [_picture(caption, figure) for caption, figure in part.figures]
    return "\n".join(piece for piece in [*pieces, "</section>"] if piece)


def _text(text: str) -> str:
    """Paragraphs and lists, everything else as it is written."""
    blocks = []
    for block in text.strip().split("\n\n"):
        lines = [line.strip() for line in block.strip().splitlines()]
        if lines and all(line.startswith("- ") for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{html.escape(line[2:])}</li>" for line in lines) + "</ul>")
        elif lines:
            blocks.append(f"<p>{'<br>'.join(map(html.escape, lines))}</p>")
    return "\n".join(blocks)


def _picture(caption: str, figure: Figure) -> str:
    """The figure inside the page. It is drawn on white, and framed so in dark mode too."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    text, width = html.escape(caption), round(figure.get_figwidth() * 96)
    return (f'<figure><img alt="{text}" style="width:{width}px" src="data:image/png;base64,{data}">'
            f"<figcaption>{text}</figcaption></figure>")


# --- tables ------------------------------------------------------------------------------------------------


def _table(table: Any) -> str:
    columns, rows = _cells(table)
    if not rows:
        return '<p class="none">No rows.</p>'
    # The first column names the rows; columns of numbers are set to the right, head and all.
    right = [all(value is None or _is_number(value) for value in own) for own in zip(*rows, strict=True)]
    right[0] = False
    heads = _heads(columns, right)
    body = "".join(_row(row, right) for row in rows)
    return f'<div class="scroll"><table><thead>{heads}</thead><tbody>{body}</tbody></table></div>'


def _row(row: Sequence[Any], right: Sequence[bool]) -> str:
    cells = "".join(f"<td{_CLASS[number]}>{_written(value)}</td>"
                    for value, number in zip(row[1:], right[1:], strict=True))
    return f'<tr><th scope="row">{_written(row[0])}</th>{cells}</tr>'


_CLASS = {True: ' class="number"', False: ""}


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _cells(table: Any) -> tuple[list[Any], list[list[Any]]]:
    """Columns (names, or pairs of names) and rows."""
    if hasattr(table, "columns"):  # a DataFrame: its index names the rows
        pairs = getattr(table.columns, "nlevels", 1) == 2
        values = zip(table.index, table.itertuples(index=False, name=None), strict=True)
        return [("", "") if pairs else "", *table.columns], [[index, *row] for index, row in values]
    records: list[Mapping[str, Any]] = list(table)
    columns = list(dict.fromkeys(name for record in records for name in record))
    return columns, [[record.get(name) for name in columns] for record in records]


def _heads(columns: Sequence[Any], right: Sequence[bool]) -> str:
    """The head row; for pairs of names two rows, each first name above the columns it spans."""
    paired = isinstance(columns[0], tuple)
    names = [column[1] for column in columns] if paired else columns
    row = "".join(f'<th scope="col"{_CLASS[number]}>{html.escape(str(name))}</th>'
                  for name, number in zip(names, right, strict=True))
    if not paired:
        return f"<tr>{row}</tr>"
    spans = [(label, len(list(own))) for label, own in itertools.groupby(column[0] for column in columns[1:])]
    top = "".join(f'<th scope="colgroup" colspan="{count}">{html.escape(str(label))}</th>'
                  for label, count in spans)
    return f"<tr><td></td>{top}</tr><tr>{row}</tr>"


def _written(value: Any) -> str:
    """Four significant digits; a dash for what is missing."""
    fraction = _is_number(value) and not isinstance(value, numbers.Integral)
    if value is None or (fraction and math.isnan(value)):
        return "–"
    if fraction:
        value = f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:#.4g}"
        value = value.replace("-", "−", 1) if value.startswith("-") else value
    return html.escape(str(value))


_CSS = """
:root { color-scheme: light dark; --ink: #22262e; --muted: #667080; --page: #fbfbfc; --card: #fff;
  --line: #e3e6eb; --tint: #f3f5f8; --link: #0b62a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ee; --muted: #9aa3b2; --page: #14171c;
  --card: #1c2027; --line: #313743; --tint: #232833; --link: #7cc0f4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.6;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 64rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: clamp(1.6rem, 4vw, 2.2rem); line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 0 0 0.75rem; }
p, ul { max-width: 44rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; font-size: 0.9rem; margin: 0 0 1.5rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: clamp(1rem, 3vw, 1.75rem); margin: 0 0 1.5rem; scroll-margin-top: 1rem; }
section > :last-child { margin-bottom: 0; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; }
table { border-collapse: collapse; font-size: 0.875rem; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: 0.4rem 0.75rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--muted); font-weight: 600; }
th[scope=colgroup] { text-align: center; color: var(--ink); border-left: 1px solid var(--line); }
th[scope=row] { font-weight: 500; position: sticky; left: 0; background: var(--card); }
tbody tr:hover > * { background: var(--tint); }
th.number, td.number { text-align: right; }
figure { margin: 0 0 1.5rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 8px; padding: 0.5rem; }
figcaption, .none { color: var(--muted); font-size: 0.875rem; margin-top: 0.5rem; max-width: 44rem; }
@media print { section { border: 0; padding: 0; break-inside: avoid; } nav { display: none; } }
"""
