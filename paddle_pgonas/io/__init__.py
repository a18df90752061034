"""Files: written atomically and checksummed, read without running code, locked against other processes."""
