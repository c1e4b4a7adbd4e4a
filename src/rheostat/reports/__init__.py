"""Pages, plots, model cards and leaderboard entries, made from rows."""

from rheostat.reports.dial_plots import along_dial, trade_off
from rheostat.reports.notebook import plot
from rheostat.reports.page import write_report

__all__ = ["along_dial", "plot", "trade_off", "write_report"]
