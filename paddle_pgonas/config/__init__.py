"""The configuration: its sections with every key, and how files and overrides become one checked value."""
