"""Networks for images, as configurations name them."""

from rl.learning.networks.cnn import DuelingNatureCNN, ImpalaResNet, NatureCNN, NoisyDuelingNatureCNN

__all__ = ["DuelingNatureCNN", "ImpalaResNet", "NatureCNN", "NoisyDuelingNatureCNN"]
