"""In-context heads are two towers (paper 2): find them, read what they copy and compare, correct their biases.

The body of paper 2 was not available where this was written: what is second-hand or our reading is said where it is.
"""

from tl_neuron_attr.incontext.batches import IclBatch, batch_of, icl_batches
from tl_neuron_attr.incontext.examples import Example, ExampleFile, from_demo, icl_prompts, read_examples
from tl_neuron_attr.incontext.prompts import IclPrompt, icl_prompt
from tl_neuron_attr.incontext.variants import arranged, balanced, one_removed, reordered, reversed_labels, with_query

__all__ = [
    "Example",
    "ExampleFile",
    "IclBatch",
    "IclPrompt",
    "arranged",
    "balanced",
    "batch_of",
    "from_demo",
    "icl_batches",
    "icl_prompt",
    "icl_prompts",
    "one_removed",
    "read_examples",
    "reordered",
    "reversed_labels",
    "with_query",
]
