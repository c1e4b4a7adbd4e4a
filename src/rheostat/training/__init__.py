"""The training loop: recipes, steps, checkpoints, selection, queues of runs."""

from rheostat.training.loop import train
from rheostat.training.queue import read_queue
from rheostat.training.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe", "read_queue", "train"]
