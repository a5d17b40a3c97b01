"""Reports of runs: self-contained HTML pages."""
