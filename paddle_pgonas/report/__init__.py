"""Reports: agreement of submissions, priors and truth as a table, as JSON and as one self-contained HTML page."""
