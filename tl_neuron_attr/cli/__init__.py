"""The command ``tl-neuron-attr``."""
