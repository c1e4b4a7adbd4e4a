"""Pages, plots, model cards and leaderboard entries, made from rows."""

from rheostat.reports.notebook import plot
from rheostat.reports.page import along_dial, trade_off, write_report

__all__ = ["along_dial", "plot", "trade_off", "write_report"]
