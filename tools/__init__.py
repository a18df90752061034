"""The command lines, one per file; in the installed package they are its commands (``[project.scripts]`` of pyproject.toml)."""
