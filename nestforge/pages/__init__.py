"""Results as pages for people: plots and the report."""
