"""Speed as ratios: every subject does the same turn beside raw `sqlite3`, alternated in one process, medians."""
