import pytest
import torch

from tl_neuron_attr.cli import main

torch.set_num_threads(1)


@pytest.fixture
def run(capsys):
    """The command line as a user meets it: arguments to exit code, output and errors."""

    def command(*args):
        code = main(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
