"""The tests of Holdfast; shared helpers are imported as `tests.<module>`."""
