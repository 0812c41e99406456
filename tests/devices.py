"""Processes with several CPU devices."""

import os


def environment(devices: int) -> dict[str, str]:
    """Of a process that has so many devices and compiles as the tests do."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
