#!/usr/bin/env python3
"""Draws a dashboard of this directory without Grafana: the pictures in docs/telemetry are made by it.

    render.py DASHBOARD.json PICTURE.png [--prometheus URL] [--minutes N] [--end TIME] [--interval 15s] [NAME=VALUE ...]

It asks Prometheus what Grafana would ask it, and draws panels of the kinds that are used here (timeseries, stat,
table) where they are in the dashboard. Colours, fonts and spacing are its own. Needs matplotlib and pillow.
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.dates import DateFormatter  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402
from PIL import Image  # noqa: E402

COLUMN, ROW = 56, 30  # pixels of a dashboard's grid
BACK, PANEL, TEXT, DIM = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"
COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#96d98d", "#ffb357", "#c0d8ff"]
NAMES = 10  # that a legend has room for
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}


def ask(url, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def shown(value, unit, decimals=None):
    """A value as people read it."""
    if value is None or math.isnan(value):
        return "no data"
    if unit in ("bytes", "Bps"):
        for power in ("B", "KiB", "MiB", "GiB", "TiB"):
            if abs(value) < 1024 or power == "TiB":
                text = f"{value:.0f}" if power == "B" or abs(value) >= 100 else f"{value:.1f}"
                return f"{text} {power}" + ("/s" if unit == "Bps" else "")
            value /= 1024
    if unit == "percentunit":
        return f"{value * 100:.{0 if abs(value) >= 0.1 or value == 0 else 1}f} %"
    if unit == "s":
        if value >= 120:
            return f"{value / 60:.1f} min"
        return f"{value * 1000:.3g} ms" if 0 < abs(value) < 1 else f"{value:.3g} s"
    suffix = {"reqps": "/s", "pps": "/s", "iops": "/s"}.get(unit, "")
    return (f"{value:.{decimals}f}" if decimals is not None else f"{value:.4g}") + suffix


def legend(form, labels):
    text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: labels.get(m.group(1), ""), form or "")
    return " ".join(text.split()) or ", ".join(f"{k}={v}" for k, v in sorted(labels.items()) if k != "__name__")


def colour_of(steps, value):
    colour = "green"
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return NAMED[colour]


def mapped(defaults, value):
    """What a value is called, and in which colour."""
    for mapping in defaults.get("mappings", []):
        option = mapping["options"].get(f"{value:g}")
        if option:
            return option["text"], NAMED[option["color"]]
    steps = defaults.get("thresholds", {}).get("steps", [])
    return shown(value, defaults["unit"], defaults.get("decimals")), colour_of(steps, value)


class Board:
    def __init__(self, arguments):
        self.url = arguments.prometheus
        self.end = arguments.end or time.time()
        self.begin = self.end - arguments.minutes * 60
        self.variables = dict(v.split("=", 1) for v in arguments.variables)
        self.variables["__rate_interval"] = arguments.interval
        with open(arguments.dashboard, encoding="utf-8") as file:
            self.board = json.load(file)
        for variable in self.board["templating"]["list"]:
            self.variables.setdefault(variable["name"], variable.get("allValue") or ".*")

    def query(self, target):
        return re.sub(r"\$(\w+)", lambda m: self.variables[m.group(1)], target["expr"])

    def draw(self, picture):
        panels = self.board["panels"]
        rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
        width, height = 24 * COLUMN, rows * ROW + 40
        figure = plt.figure(figsize=(width / 100, height / 100), dpi=100, facecolor=BACK)
        figure.text(0.008, 1 - 26 / height, self.board["title"], color=TEXT, fontsize=14)
        for panel in panels:
            at = panel["gridPos"]
            left, top = at["x"] * COLUMN + 4, 40 + at["y"] * ROW + 4
            w, h = at["w"] * COLUMN - 8, at["h"] * ROW - 8
            box = [left / width, 1 - (top + h) / height, w / width, h / height]
            back = figure.add_axes(box, facecolor=PANEL)
            back.set_xticks([]), back.set_yticks([])
            for spine in back.spines.values():
                spine.set_color("#2a2d33")
            back.text(0.012, 1 - 10 / h, panel["title"], color=TEXT, fontsize=9, va="top", transform=back.transAxes)
            getattr(self, panel["type"])(figure, back, panel, (left, top, w, h), (width, height))
        figure.savefig(picture, facecolor=BACK)
        Image.open(picture).convert("RGB").quantize(160).save(picture, optimize=True)

    def timeseries(self, figure, back, panel, box, size):
        (left, top, w, h), (width, height) = box, size
        axes = figure.add_axes([(left + 62) / width, 1 - (top + h - 54) / height, (w - 76) / width, (h - 90) / height], facecolor=PANEL)
        defaults = panel["fieldConfig"]["defaults"]
        step = max(1, round((self.end - self.begin) / 300))
        stacked = defaults["custom"]["stacking"]["mode"] == "normal"
        drawn = []
        for target in panel["targets"]:
            for series in ask(self.url, "query_range", query=self.query(target), start=self.begin, end=self.end, step=step):
                values = [(float(t), float(v)) for t, v in series["values"]]
                if not stacked:
                    # No line where nothing was told.
                    later = zip(values, values[1:])
                    gaps = [(a + step, math.nan) for (a, _), (b, _) in later if b - a > 1.5 * step]
                    values = sorted(values + gaps)
                times = [t for t, _ in values]
                name = legend(target["legendFormat"], series["metric"])
                drawn.append((name, times, [0.0] * len(times), [v for _, v in values]))
        if stacked:
            drawn = self.stacked(drawn, step)
        # The greatest have their names below; `topk` finds others at each time.
        drawn.sort(key=lambda d: -max((v for v in d[3] if not math.isnan(v)), default=0) if not stacked else 0)
        for n, (name, times, low, high) in enumerate(drawn):
            dates = [t / 86400 for t in times]
            colour = COLOURS[n % len(COLOURS)]
            axes.plot(dates, high, color=colour, linewidth=1, label=name[:44] if n < NAMES else None)
            axes.fill_between(dates, low, high, color=colour, alpha=0.25 if stacked else 0.07, linewidth=0)
        axes.set_xlim(self.begin / 86400, self.end / 86400)
        if "min" in defaults:
            axes.set_ylim(bottom=defaults["min"])
        if "max" in defaults:
            axes.set_ylim(top=defaults["max"])
        for line in defaults.get("thresholds", {}).get("steps", [])[1:]:
            axes.axhline(line["value"], color=NAMED[line["color"]], linewidth=0.6, linestyle="--")
        axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S" if self.end - self.begin < 1800 else "%H:%M"))
        axes.xaxis.set_major_locator(matplotlib.dates.AutoDateLocator(maxticks=6))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: shown(v, defaults["unit"])))
        axes.tick_params(colors=DIM, labelsize=7, length=0)
        axes.grid(color="#2a2d33", linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if drawn:
            box = (left + 56) / width, 1 - (top + h - 4) / height
            figure.legend(*axes.get_legend_handles_labels(), loc="lower left", bbox_to_anchor=box, ncols=max(1, min(5, len(drawn), int(w / 130))), fontsize=6.5, frameon=False, labelcolor=TEXT, handlelength=1, columnspacing=1, borderpad=0)
        else:
            back.text(0.5, 0.5, "nothing in this time", color=DIM, fontsize=9, ha="center", transform=back.transAxes)

    def stacked(self, drawn, step):
        """Each on top of those before; one that tells nothing at a time is 0 there."""
        told = [{round((t - self.begin) / step): v for t, v in zip(times, high)} for _, times, _, high in drawn]
        slots = range(max((max(series) for series in told), default=0) + 1)
        times = [self.begin + slot * step for slot in slots]
        below, result = [0.0] * len(slots), []
        for (name, *_), series in zip(drawn, told):
            high = [low + series.get(slot, 0.0) for slot, low in zip(slots, below)]
            result.append((name, times, below, high))
            below = high
        return result

    def now(self, target):
        return ask(self.url, "query", query=self.query(target), time=self.end)

    def stat(self, _figure, back, panel, _box, _size):
        found = [(legend(t["legendFormat"], s["metric"]), float(s["value"][1])) for t in panel["targets"] for s in self.now(t)]
        if not found:
            back.text(0.5, 0.42, "no data", color=DIM, fontsize=16, ha="center", va="center", transform=back.transAxes)
        for n, (name, value) in enumerate(found):
            text, colour = mapped(panel["fieldConfig"]["defaults"], value)
            x = (n + 0.5) / len(found)
            back.text(x, 0.44, text, color=colour, fontsize=20, ha="center", va="center", transform=back.transAxes)
            if len(found) > 1:
                back.text(x, 0.12, name, color=DIM, fontsize=8, ha="center", transform=back.transAxes)

    def table(self, _figure, back, panel, box, _size):
        renamed = panel["transformations"][0]["options"]["renameByName"]
        columns = [c for c in renamed if c != "Value"] + ["Value"]
        found = sorted(self.now(panel["targets"][0]), key=lambda s: -float(s["value"][1]))
        height = box[3]
        for n, column in enumerate(columns):
            x = 0.02 + n / len(columns)
            back.text(x, 1 - 40 / height, renamed[column], color="#6e9fff", fontsize=8, transform=back.transAxes)
            for row, series in enumerate(found[: int((height - 50) / 19)]):
                text, colour = series["metric"].get(column, ""), TEXT
                if column == "Value":
                    text, colour = mapped(panel["fieldConfig"]["defaults"], float(series["value"][1]))
                back.text(x, 1 - (60 + row * 19) / height, text, color=colour, fontsize=8, transform=back.transAxes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dashboard")
    parser.add_argument("picture")
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--end", type=float, help="in seconds since 1970; now")
    parser.add_argument("--interval", default="4m", help="what stands for $__rate_interval")
    parser.add_argument("variables", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_intermixed_args()
    Board(arguments).draw(arguments.picture)


if __name__ == "__main__":
    main()
