import pytest
import torch
from hypothesis import settings

from tl_neuron_attr.cli.main import main

torch.set_num_threads(1)
settings.register_profile("suite", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("suite")


@pytest.fixture
def run(capsys):
    """The command line as a user meets it: arguments to exit code, output and errors."""

    def command(*args):
        code = main(args)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
