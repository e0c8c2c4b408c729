"""The page of `select`: everything in one file, to open without a network."""

from __future__ import annotations

import io
from html import escape
from typing import Any

from ...errors import first_line
from ..diagrams import plot_selection


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.4rem; } table { border-collapse: collapse; font-size: 0.85rem; } .wide { overflow-x: auto; }
th, td { padding: 0.3rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tbody tr:first-child { background: #eef5fb; font-weight: 600; }
svg { max-width: 100%; height: auto; } li { margin: 0.2rem 0; } .verdict { font-size: 1.05rem; }
"""


def page(selection: Any) -> str:
    """HTML of a Selection; without matplotlib it says how to have a figure, with no entry it has none."""
    head = "".join(f"<th>{escape(c)}</th>" for c in selection.columns())
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>\n" for row in selection.cells())
    said = "".join(f"<p class='verdict'>{escape(sentence)}</p>\n" for sentence in selection.verdict())
    notes = "".join(f"<li>{escape(note)}</li>\n" for note in selection.notes())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Models for the task</title><style>{STYLE}</style></head>
<body><h1>Models for the task</h1>
{said}{_figure(selection)}
<div class="wide"><table><thead><tr>{head}</tr></thead>
<tbody>
{body}</tbody></table></div>
<ul>
{notes}</ul>
</body></html>
"""


def _figure(selection: Any) -> str:
    """The figure as SVG inside the page, or what it needs."""
    if not selection.entries:
        return ""
    try:
        import matplotlib
    except ImportError as error:
        return f"<p>No figure: {escape(first_line(error))}. Fix: pip install 'hf-reprogram[figures]'</p>"
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.2 + 0.45 * len(selection.entries)), layout="constrained")
    plot_selection(selection, figure.add_subplot())
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "select"}):  # the same page every time
        FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :]
