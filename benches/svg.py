"""A bar chart as SVG, without a library: groups of bars with their values above them, on a logarithmic scale."""

import math
from html import escape

COLORS = ["#9aa5b1", "#f2a65a", "#2f7ed8", "#1b4f8f", "#6c3483"]


def bars(title, groups, series, width=860, height=380):
    """`series`: a value a group, by name."""
    left, right, top, bottom = 20, 20, 56, 58
    values = [value for row in series.values() for value in row]
    low, high = min(values) / 2, max(values) * 1.15
    reach = height - top - bottom
    slot_width = (width - left - right) / len(groups)
    bar = slot_width * 0.84 / len(series)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{left}" y="24" font-size="15" font-weight="600" fill="#1f2933">{escape(title)}</text>',
        f'<text x="{left}" y="42" fill="#52606d">logarithmic; shorter is better</text>',
        f'<line x1="{left}" y1="{height - bottom}" x2="{width - right}" y2="{height - bottom}" stroke="#9aa5b1"/>',
    ]
    for group, label in enumerate(groups):
        start = left + group * slot_width + slot_width * 0.08
        for number, (name, row) in enumerate(series.items()):
            tall = reach * math.log(row[group] / low) / math.log(high / low)
            x, y = start + number * bar, height - bottom - tall
            color = COLORS[number % len(COLORS)]
            out.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar - 3:.1f}" height="{tall:.1f}" fill="{color}"><title>{escape(name)}</title></rect>')
            out.append(f'<text x="{x + (bar - 3) / 2:.1f}" y="{y - 4:.1f}" text-anchor="middle" font-size="10" fill="#1f2933">{row[group]:.0f}</text>')
        out.append(f'<text x="{left + (group + 0.5) * slot_width:.1f}" y="{height - bottom + 18}" text-anchor="middle" fill="#1f2933">{escape(label)}</text>')
    x = left
    for number, name in enumerate(series):
        out.append(f'<rect x="{x}" y="{height - 24}" width="12" height="12" fill="{COLORS[number % len(COLORS)]}"/>')
        out.append(f'<text x="{x + 17}" y="{height - 14}" fill="#1f2933">{escape(name)}</text>')
        x += 40 + 7 * len(name)
    return "\n".join([*out, "</svg>", ""])
