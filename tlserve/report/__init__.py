"""Pages for people: one HTML file about a version, one that compares backbones.

Both stand alone: no network, no other file, light and dark, on paper too. On the trainer's side, since
reading and drawing are work that no answer should wait for.
"""

from tlserve.report.comparison import Choice, choose, render_comparison
from tlserve.report.page import render_report

__all__ = ["Choice", "choose", "render_comparison", "render_report"]
