"""The training loop: recipes, steps, checkpoints, selection."""
