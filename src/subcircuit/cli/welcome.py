"""The output of ``subcircuit`` without a command: the first three commands to run."""

_FIRST = """\
Find the sub-circuit of a language model that carries out a behaviour.

See whether a model does the task at all:
  subcircuit tasks show ioi --model smollm2-135m

Find the circuit, a few seconds to try it out (a directory appears under runs/):
  subcircuit discover --model smollm2-135m --task ioi --method eap --metric logit_difference

Look at it in the browser:
  subcircuit view runs/ioi-smollm2-135m-1

subcircuit --help lists all commands; subcircuit doctor checks the installation."""


def welcome() -> None:
    """Print the first commands to run."""
    print(_FIRST)  # noqa: T201
