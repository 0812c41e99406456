"""Goldens hold for programs as users run them."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_it(full_optimisation):
    """Every file of this folder."""
