"""Trackers as configurations name them; they show the rows of metrics.csv and eval.csv."""

from rl.trackers.mlflow import MLflow
from rl.trackers.tensorboard import TensorBoard
from rl.trackers.wandb import Wandb

__all__ = ["MLflow", "TensorBoard", "Wandb"]
