"""Everything that holds or makes a finished model: Tunable, adoption, folding, the file, costs."""
