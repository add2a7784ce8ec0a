"""Paper 1: neuron-level knowledge attribution."""
