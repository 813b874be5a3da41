"""Compiled programs, each compiled once. Most of a compilation is XLA optimising code that runs once, to draw numbers at
random that tracr then throws away."""

import os

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_DEFAULT_PRNG_IMPL", "unsafe_rbg")

from functools import cache

import pytest

from subcircuit.truth import PROGRAMS, Compiled, compile_program

BY_NAME = {program.name: program for program in PROGRAMS}


@pytest.fixture(scope="session")
def compiled():
    """From a program's name to the program, compiled."""

    @cache
    def of(name: str) -> Compiled:
        return compile_program(BY_NAME[name])

    return of
