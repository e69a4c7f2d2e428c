"""Which backends a test can ask for here, so that a skip says in words what is missing."""

import os

import pytest

import attn_ref

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton then runs on the CPU, slowly, and in no bfloat16


def why_not(backend):
    """Why this machine does not offer a backend; None if it does."""
    ready = attn_ref.backends()[backend]
    return None if ready == "ready" else f"{backend}: {ready}"


def skipped(reason):
    """The marks of a parameter that is skipped for a reason, or of one that is not (None)."""
    return [pytest.mark.skip(reason)] if reason else []
