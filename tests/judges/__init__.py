"""Other projects' own suites, with our classes in the place of theirs."""
