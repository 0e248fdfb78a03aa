"""Draw docs/speed.svg, the figure in README.md, and docs/speed-dark.svg from benchmarks/results/peers.json.

    python benchmarks/speed_figure.py

It needs matplotlib: `pip install 'modeling-dlr[figures]'`.
"""

from pathlib import Path

from measure import BOTH, RESULTS, draw_for_both_pages, load

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "speed.svg"

# The drawn columns, with their names and colours.
LINES = {
    "attention_ms": ("attention", "#9aa0a6"),
    "lstm_ms": ("LSTM", "#c58b3b"),
    "dlr_ms": ("DLR", "#1a73e8"),
    "dss_ms": ("DSS", "#188038"),
}


def draw(path: Path) -> None:
    """Draw the time of one layer, forward and backward, against the length of the sequence."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = sorted((row for row in load(RESULTS / "peers.json") if row["mode"] == BOTH), key=lambda row: row["L"])
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    lengths = [row["L"] for row in rows]
    for column, (name, colour) in LINES.items():
        times = [row[column] for row in rows]
        axes.plot(lengths, times, color=colour, linewidth=2, marker="o", markersize=4)
        axes.annotate(f" {name}", (lengths[-1], times[-1]), color=colour, va="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.margins(x=0.12)
    axes.set_xlabel("steps of a sequence")
    axes.set_title(f"One layer, forward and backward, in milliseconds ({rows[0]['machine']}, 2 cores)", fontsize=10)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    with mpl.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    draw_for_both_pages(draw, PICTURE)
