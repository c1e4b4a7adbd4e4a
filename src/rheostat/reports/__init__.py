"""Pages, plots, model cards and leaderboard entries, made from rows."""
