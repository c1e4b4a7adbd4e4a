"""Result rows: their files, intervals, areas and paired comparison."""
