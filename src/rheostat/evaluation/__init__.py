"""Points × attacks → rows: targets, chunks, checks, tiers, resumption."""
