"""Launchers, as configurations name them."""

from rl.sweeps.launchers import Basic, Processes, Ray, Slurm

__all__ = ["Basic", "Processes", "Ray", "Slurm"]
