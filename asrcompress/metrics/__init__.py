"""Pure functions that return counts and rates: error_rate, detection, cost. They read and write no files."""
