"""What people know from other agent frameworks, written with Holdfast: the same names, the same order of lines."""
