"""`python -m onnx_mdp` is `onnx-mdp`."""

import sys

from onnx_mdp.cli.main import main

sys.exit(main())
