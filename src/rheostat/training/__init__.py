"""The training loop: recipes, steps, checkpoints, selection, queues of runs."""

from rheostat.training.callbacks import Callback, EarlyStop, TensorBoard
from rheostat.training.fitting import fit
from rheostat.training.loop import train
from rheostat.training.options import FitOptions
from rheostat.training.own_loop import training_step
from rheostat.training.queue import read_queue
from rheostat.training.recipe import Recipe, load_recipe
from rheostat.training.result import Fitted

__all__ = [
    "Callback",
    "EarlyStop",
    "FitOptions",
    "Fitted",
    "Recipe",
    "TensorBoard",
    "fit",
    "load_recipe",
    "read_queue",
    "train",
    "training_step",
]
