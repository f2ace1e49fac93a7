"""The report as one page for a browser: it needs no network and no other file.

Figures are plain values in plotly's schema; plotly's own script draws them.
"""

from __future__ import annotations

from apex_native.reports.html.page import Beside, html_text, write_html

__all__ = ["Beside", "html_text", "write_html"]
