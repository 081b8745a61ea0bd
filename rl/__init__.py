"""Encore: deep reinforcement learning whose runs always come back."""

__version__ = "0.1.0"
