"""What goes wrong outside the process: kills, full disks, locks, permissions, other people's files."""
