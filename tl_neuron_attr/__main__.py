"""``python -m tl_neuron_attr``: the command line."""

import sys

from tl_neuron_attr.cli.main import main

sys.exit(main())
