"""Reports that open from disk: one student's page, several side by side, and what is in a folder of runs."""
