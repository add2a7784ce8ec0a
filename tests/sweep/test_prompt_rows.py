"""Rows of prompts: one record each, small numbers, and the reason where one was not run."""

import numpy as np
import pandas as pd
import torch

from tl_neuron_attr.evaluate.outcome import Outcome
from tl_neuron_attr.sweep.prompt_rows import left_out_rows, outcome_columns, prompt_records


def test_a_prompt_that_was_not_run_says_why():
    items = pd.DataFrame({"type": ["a"], "target_id": [-1], "target_tokens": [0], "problem": ["empty"]}, index=[7])
    assert left_out_rows(items) == {7: {"item": 7, "type": "a", "target_id": -1, "target_tokens": 0, "status": "empty"}}


def test_records_hold_every_condition_of_their_own_prompt():
    likely = torch.tensor([[[0.0, 3.0]], [[3.0, 0.0]]])
    unlikely, target = 3 - likely, torch.tensor([[1], [0]])
    records = prompt_records(outcome_columns([Outcome.of(likely, target), Outcome.of(unlikely, target)]))
    assert [record["rank"].tolist() for record in records] == [[1, 2], [1, 2]]
    np.testing.assert_allclose(records[0]["log_prob"][0] - records[0]["log_prob"][1], 3, rtol=1e-6)
    assert {value.dtype for record in records for value in record.values()} == {np.dtype("float32")}
