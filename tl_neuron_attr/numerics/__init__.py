"""Tensors only: readout, scores, bounds, the certified top k."""
