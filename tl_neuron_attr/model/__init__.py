"""All that knows TransformerLens: streams, weights, targets, positions, interventions."""
