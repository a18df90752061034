"""Reports: how submissions, priors and truth agree, as a table, as JSON and as one self-contained HTML page."""
