"""What keeps the house in order: requirements agree, and nothing needs more than it says."""

from __future__ import annotations

from conftest import REPOSITORY


def requirements(name: str) -> list[str]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


def test_the_two_requirement_files_differ_in_the_paddle_wheel_alone() -> None:
    gpu, cpu = requirements("requirements.txt"), requirements("requirements-cpu.txt")
    assert gpu[0].startswith("paddlepaddle-gpu")
    assert [gpu[0].replace("-gpu", ""), *gpu[1:]] == cpu
